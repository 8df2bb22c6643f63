#include <algorithm>
#include <optional>

#include "chat/failure.h"
#include "chat/formats.h"
#include "chat/letter_case.h"
#include "chat/methods.h"
#include "chat/operators.h"
#include "chat/text.h"

namespace diffulex_edge::chat {
namespace {

using Method = Value (*)(const Value&, ArgumentReader&);

const std::string& need_text(const Value& value) {
  if (!value.is_text()) {
    check_defined(value);
    throw Failure("a text is needed, not " + value.type_name());
  }
  return *value.if_text();
}

std::int64_t need_integer(const Value& value) {
  const auto integer = value.if_integer();
  if (!integer) {
    check_defined(value);
    throw Failure("an integer is needed, not " + value.type_name());
  }
  return *integer;
}

std::optional<std::string> text_or_none(const Value& value) {
  return value.is_none() ? std::nullopt : std::optional(need_text(value));
}

Value same_kind(const Value& object, std::string text) { return Value::text(std::move(text), object.is_markup()); }

Value texts(const Value& object, std::vector<std::string> parts) {
  std::vector<Value> items;
  items.reserve(parts.size());
  for (std::string& part : parts) {
    items.push_back(same_kind(object, std::move(part)));
  }
  return make_list(std::move(items));
}

Value strip_side(const Value& object, ArgumentReader& arguments, Side side) {
  const auto set = text_or_none(arguments.next_or("", Value::none()));
  return same_kind(object, std::string(strip(*object.if_text(), side, set)));
}
Value method_strip(const Value& object, ArgumentReader& arguments) {
  return strip_side(object, arguments, Side::kBoth);
}
Value method_lstrip(const Value& object, ArgumentReader& arguments) {
  return strip_side(object, arguments, Side::kLeft);
}
Value method_rstrip(const Value& object, ArgumentReader& arguments) {
  return strip_side(object, arguments, Side::kRight);
}

Value split_from(const Value& object, ArgumentReader& arguments, Side side) {
  const auto separator = text_or_none(arguments.next_or("sep", Value::none()));
  const std::int64_t most = need_integer(arguments.next_or("maxsplit", Value::integer(-1)));
  return texts(object, split(*object.if_text(), separator, most, side));
}
Value method_split(const Value& object, ArgumentReader& arguments) {
  return split_from(object, arguments, Side::kLeft);
}
Value method_rsplit(const Value& object, ArgumentReader& arguments) {
  return split_from(object, arguments, Side::kRight);
}

Value method_splitlines(const Value& object, ArgumentReader& arguments) {
  return texts(object, split_lines(*object.if_text(), arguments.next_or("keepends", Value(false)).truth()));
}

// What the optional arguments `start` and `end` leave of the characters: a piece of the text, and where it begins.
struct Range {
  std::string text;
  std::int64_t begin = 0;
  bool empty = false;  // begins behind the end: finds nothing, not even an empty text
};

Range range_of(const Value& object, ArgumentReader& arguments) {
  const Value begin = arguments.next_or("", Value::none());
  const Value end = arguments.next_or("", Value::none());
  if (begin.is_none() && end.is_none()) {
    return {*object.if_text(), 0, false};
  }
  const std::u32string letters = decode(*object.if_text());
  const auto size = static_cast<std::int64_t>(letters.size());
  const auto place = [&](const Value& value, std::int64_t absent) {
    const std::int64_t number = value.is_none() ? absent : std::clamp(need_integer(value), -size, size + 1);
    return number < 0 ? number + size : number;
  };
  const std::int64_t first = place(begin, 0);
  const std::int64_t last = std::min(place(end, size), size);
  if (first > last) {
    return {"", first, true};
  }
  const auto piece = letters.substr(static_cast<std::size_t>(first), static_cast<std::size_t>(last - first));
  return {encode(piece), first, false};
}

Value affix(const Value& object, ArgumentReader& arguments, bool (*fits)(std::string_view, std::string_view)) {
  const Value wanted = arguments.require("prefix");
  const Range range = range_of(object, arguments);
  const auto tuple = wanted.if_list();
  if (!tuple || tuple->kind != ListKind::kTuple) {
    return Value(!range.empty && fits(range.text, need_text(wanted)));
  }
  return Value(std::any_of(tuple->items.begin(), tuple->items.end(),
                           [&](const Value& each) { return !range.empty && fits(range.text, need_text(each)); }));
}
Value method_startswith(const Value& object, ArgumentReader& arguments) {
  return affix(object, arguments, [](std::string_view text, std::string_view part) { return text.starts_with(part); });
}
Value method_endswith(const Value& object, ArgumentReader& arguments) {
  return affix(object, arguments, [](std::string_view text, std::string_view part) { return text.ends_with(part); });
}

std::int64_t find_part(const Value& object, ArgumentReader& arguments, bool last) {
  const std::string part = need_text(arguments.require("sub"));
  const Range range = range_of(object, arguments);
  const std::size_t found = last ? range.text.rfind(part) : range.text.find(part);
  if (range.empty || found == std::string::npos) {
    return -1;
  }
  return range.begin + length(std::string_view(range.text).substr(0, found));
}
Value method_find(const Value& object, ArgumentReader& arguments) {
  return Value::integer(find_part(object, arguments, false));
}
Value method_rfind(const Value& object, ArgumentReader& arguments) {
  return Value::integer(find_part(object, arguments, true));
}
Value method_index(const Value& object, ArgumentReader& arguments) {
  const std::int64_t found = find_part(object, arguments, false);
  if (found < 0) {
    throw Failure("'index' does not find the text");
  }
  return Value::integer(found);
}

Value method_count(const Value& object, ArgumentReader& arguments) {
  const std::string part = need_text(arguments.require("sub"));
  const Range range = range_of(object, arguments);
  if (range.empty) {
    return Value::integer(0);
  }
  if (part.empty()) {
    return Value::integer(length(range.text) + 1);
  }
  std::int64_t count = 0;
  for (std::size_t i = range.text.find(part); i != std::string::npos; i = range.text.find(part, i + part.size())) {
    ++count;
  }
  return Value::integer(count);
}

Value method_replace(const Value& object, ArgumentReader& arguments) {
  const std::string old = need_text(arguments.require("old"));
  const Value by = arguments.require("new");
  const std::int64_t count = need_integer(arguments.next_or("count", Value::integer(-1)));
  const std::string& plain = need_text(by);
  const bool escapes = object.is_markup() && !by.is_markup();
  return same_kind(object, replace(*object.if_text(), old, escapes ? escape_html(plain) : plain, count));
}

Value method_join(const Value& object, ArgumentReader& arguments) {
  std::string result;
  bool first = true;
  for (const Value& item : iterate(arguments.require("iterable"))) {
    append(result, first ? std::string() : *object.if_text());
    append(result, object.is_markup() && !item.is_markup() ? escape_html(need_text(item)) : need_text(item));
    first = false;
  }
  return same_kind(object, std::move(result));
}

Value cut_at(const Value& object, ArgumentReader& arguments, bool last) {
  const std::string& text = *object.if_text();
  const std::string separator = need_text(arguments.require("sep"));
  if (separator.empty()) {
    throw Failure("the separator of 'partition' is empty");
  }
  const std::size_t found = last ? text.rfind(separator) : text.find(separator);
  std::vector<std::string> parts = {text, "", ""};
  if (found != std::string::npos) {
    parts = {text.substr(0, found), separator, text.substr(found + separator.size())};
  } else if (last) {
    std::swap(parts[0], parts[2]);
  }
  return make_list(iterate(texts(object, std::move(parts))), ListKind::kTuple);
}
Value method_partition(const Value& object, ArgumentReader& arguments) { return cut_at(object, arguments, false); }
Value method_rpartition(const Value& object, ArgumentReader& arguments) { return cut_at(object, arguments, true); }

Value method_removeprefix(const Value& object, ArgumentReader& arguments) {
  const std::string& text = *object.if_text();
  const std::string part = need_text(arguments.require("prefix"));
  return same_kind(object, text.starts_with(part) ? text.substr(part.size()) : text);
}
Value method_removesuffix(const Value& object, ArgumentReader& arguments) {
  const std::string& text = *object.if_text();
  const std::string part = need_text(arguments.require("suffix"));
  return same_kind(object, text.ends_with(part) ? text.substr(0, text.size() - part.size()) : text);
}

Value method_upper(const Value& object, ArgumentReader& /*arguments*/) {
  return same_kind(object, upper(*object.if_text()));
}
Value method_lower(const Value& object, ArgumentReader& /*arguments*/) {
  return same_kind(object, lower(*object.if_text()));
}
Value method_title(const Value& object, ArgumentReader& /*arguments*/) {
  return same_kind(object, title(*object.if_text()));
}
Value method_capitalize(const Value& object, ArgumentReader& /*arguments*/) {
  return same_kind(object, capitalize(*object.if_text()));
}

bool all_letters(const Value& object, bool (*fits)(char32_t)) {
  const std::u32string letters = decode(*object.if_text());
  return !letters.empty() && std::ranges::all_of(letters, fits);
}
Value method_isspace(const Value& object, ArgumentReader& /*arguments*/) {
  return Value(all_letters(object, is_space));
}
Value method_isdigit(const Value& object, ArgumentReader& /*arguments*/) {
  return Value(all_letters(object, is_digit_letter));
}
Value method_isalpha(const Value& object, ArgumentReader& /*arguments*/) {
  return Value(all_letters(object, is_letter));
}
Value method_isalnum(const Value& object, ArgumentReader& /*arguments*/) {
  return Value(all_letters(object, [](char32_t letter) { return is_letter(letter) || is_digit_letter(letter); }));
}
Value method_isupper(const Value& object, ArgumentReader& /*arguments*/) {
  const std::string& text = *object.if_text();
  const std::u32string letters = decode(text);
  return Value(upper(text) == text && std::ranges::any_of(letters, is_cased));
}
Value method_islower(const Value& object, ArgumentReader& /*arguments*/) {
  const std::string& text = *object.if_text();
  const std::u32string letters = decode(text);
  return Value(lower(text) == text && std::ranges::any_of(letters, is_cased));
}

struct NamedMethod {
  std::string_view name;
  Method method;
};

constexpr NamedMethod kMethods[] = {
    {"capitalize", method_capitalize},
    {"count", method_count},
    {"endswith", method_endswith},
    {"find", method_find},
    {"index", method_index},
    {"isalnum", method_isalnum},
    {"isalpha", method_isalpha},
    {"isdigit", method_isdigit},
    {"islower", method_islower},
    {"isspace", method_isspace},
    {"isupper", method_isupper},
    {"join", method_join},
    {"lower", method_lower},
    {"lstrip", method_lstrip},
    {"partition", method_partition},
    {"removeprefix", method_removeprefix},
    {"removesuffix", method_removesuffix},
    {"replace", method_replace},
    {"rfind", method_rfind},
    {"rpartition", method_rpartition},
    {"rsplit", method_rsplit},
    {"rstrip", method_rstrip},
    {"split", method_split},
    {"splitlines", method_splitlines},
    {"startswith", method_startswith},
    {"strip", method_strip},
    {"title", method_title},
    {"upper", method_upper},
};

// Methods that Python's texts also have.
constexpr std::string_view kUnsupportedMethods[] = {
    "casefold",    "center",  "encode", "expandtabs", "format_map", "isascii", "isdecimal", "isidentifier", "isnumeric",
    "isprintable", "istitle", "ljust",  "maketrans",  "rindex",     "rjust",   "swapcase",  "translate",    "zfill"};

}  // namespace

std::optional<Value> find_text_method(const Value& text, const std::string& name) {
  if (name == "format") {
    return make_function(
        name, [text](const Arguments& arguments) { return Value::text(brace_format(*text.if_text(), arguments)); });
  }
  const auto* const found = std::ranges::find_if(kMethods, [&](const NamedMethod& each) { return each.name == name; });
  if (found != std::end(kMethods)) {
    return make_function(name, [text, name, method = found->method](const Arguments& arguments) {
      ArgumentReader reader(name, arguments);
      Value result = method(text, reader);
      reader.finish();
      return result;
    });
  }
  if (std::ranges::find(kUnsupportedMethods, name) != std::end(kUnsupportedMethods)) {
    fail_unsupported("the method '" + name + "' of a text");
  }
  return std::nullopt;
}

}  // namespace diffulex_edge::chat
