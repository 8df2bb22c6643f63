#include "chat/context.h"

#include <array>
#include <ctime>
#include <optional>

#include "chat/failure.h"
#include "chat/operators.h"
#include "chat/printing.h"

namespace diffulex_edge::chat {
namespace {

constexpr std::int64_t kMaxRange = 100'000;  // Jinja's sandbox has the same

std::int64_t require_integer(const Value& value, const char* function) {
  const auto integer = value.if_integer();
  if (!integer) {
    check_defined(value);
    throw Failure(std::string("'") + function + "' needs integers, not " + value.type_name());
  }
  return *integer;
}

Value make_range(const Arguments& arguments) {
  std::vector<std::int64_t> limits;
  for (const Value& value : arguments.positional) {
    limits.push_back(require_integer(value, "range"));
  }
  if (limits.empty() || limits.size() > 3 || !arguments.named.empty()) {
    throw Failure("'range' takes one to three integers");
  }
  const std::int64_t begin = limits.size() > 1 ? limits[0] : 0;
  const std::int64_t end = limits.size() > 1 ? limits[1] : limits[0];
  const std::int64_t step = limits.size() > 2 ? limits[2] : 1;
  if (step == 0) {
    throw Failure("the step of 'range' is 0");
  }
  std::vector<Value> items;
  for (std::int64_t i = begin; step > 0 ? i < end : i > end;) {
    if (static_cast<std::int64_t>(items.size()) == kMaxRange) {
      throw Failure("a range has more than " + std::to_string(kMaxRange) + " items");
    }
    items.push_back(Value::integer(i));
    if (__builtin_add_overflow(i, step, &i)) {
      break;
    }
  }
  std::string name = "range(" + std::to_string(begin) + ", " + std::to_string(end);
  name += step == 1 ? ")" : ", " + std::to_string(step) + ")";
  return make_list(std::move(items), ListKind::kRange, std::move(name));
}

Value make_plain_dict(const Arguments& arguments) {
  Dict dict;
  for (const auto& [key, value] : dict_items(arguments)) {
    dict.set(key, value);
  }
  return make_dict(std::move(dict));
}

[[noreturn]] Value raise_exception(const Arguments& arguments) {
  ArgumentReader reader("raise_exception", arguments);
  throw Failure("the template refuses the messages: " + to_text(reader.require("message")));
}

// Python gives `format` to C's function, but for %f; %z and %Z are empty without a time zone.
Value strftime_now(const Context& context, const Arguments& arguments) {
  ArgumentReader reader("strftime_now", arguments);
  const Value format = reader.require("format");
  reader.finish();
  if (!format.is_text()) {
    throw Failure("'strftime_now' needs a text, not " + format.type_name());
  }
  const std::time_t seconds = std::chrono::system_clock::to_time_t(context.now);
  std::tm time{};
  localtime_r(&seconds, &time);
  std::string text;
  const std::string& letters = *format.if_text();
  for (std::size_t i = 0; i < letters.size(); ++i) {
    if (letters[i] != '%' || i + 1 == letters.size()) {
      append(text, std::string_view(letters).substr(i, 1));
      continue;
    }
    const char letter = letters[++i];
    if (std::string_view("aAbBcdDeFgGhHIjklmMnpPrRsStTuUVwWxXyY%CzZ").find(letter) == std::string_view::npos) {
      fail_unsupported(std::string("the format '%") + letter + "' of a time");
    }
    std::array<char, 256> buffer{};
    const std::array<char, 3> conversion = {'%', letter, '\0'};
    const bool empty = letter == 'z' || letter == 'Z';
    const std::size_t size = empty ? 0 : std::strftime(buffer.data(), buffer.size(), conversion.data(), &time);
    append(text, std::string_view(buffer.data(), size));
  }
  return Value::text(std::move(text));
}

}  // namespace

Value Context::charge(Value value) {
  constexpr std::uint64_t kStepsPerItem = 16;
  constexpr std::uint64_t kBytesPerStep = 32;
  if (const std::string* text = value.if_text()) {
    budget.take(text->size() / kBytesPerStep);
  } else if (const auto list = value.if_list()) {
    budget.take(list->items.size() * kStepsPerItem);
  } else if (const auto dict = value.if_dict()) {
    budget.take(dict->items.size() * kStepsPerItem);
  }
  return value;
}

void Context::charge_letters(const Value& value) {
  if (const std::string* text = value.if_text()) {
    budget.take(text->size());
  }
}

Value Context::make_namespace(const Arguments& arguments) {
  auto made = std::make_shared<Namespace>();
  for (const auto& [key, value] : dict_items(arguments)) {
    made->set(to_text(key), value);
  }
  namespaces_.push_back(made);
  return Value(std::move(made));
}

std::vector<std::pair<Value, Value>> dict_items(const Arguments& arguments) {
  std::vector<std::pair<Value, Value>> items;
  if (arguments.positional.size() > 1) {
    throw Failure("a dict is made of one mapping at most");
  }
  for (const Value& value : arguments.positional) {
    if (const auto dict = value.if_dict()) {
      items = dict->items;
      continue;
    }
    for (const Value& pair : iterate(value)) {
      const std::vector<Value> parts = iterate(pair);
      if (parts.size() != 2) {
        throw Failure("a dict is made of pairs");
      }
      items.emplace_back(parts[0], parts[1]);
    }
  }
  for (const auto& [name, value] : arguments.named) {
    items.emplace_back(Value::text(name), value);
  }
  return items;
}

Value global_function(Context& context, const std::string& name) {
  if (name == "range") {
    return make_function(name, make_range);
  }
  if (name == "dict") {
    return make_function(name, make_plain_dict);
  }
  if (name == "namespace") {
    return make_function(name, [&context](const Arguments& arguments) { return context.make_namespace(arguments); });
  }
  if (name == "raise_exception") {
    return make_function(name, raise_exception);
  }
  if (name == "strftime_now") {
    return make_function(name, [&context](const Arguments& arguments) { return strftime_now(context, arguments); });
  }
  if (name == "lipsum" || name == "cycler" || name == "joiner") {
    fail_unsupported("the function '" + name + "'");
  }
  return Value::undefined("'" + name + "' is undefined");
}

}  // namespace diffulex_edge::chat
