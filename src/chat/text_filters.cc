#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "chat/failure.h"
#include "chat/filters.h"
#include "chat/formats.h"
#include "chat/letter_case.h"
#include "chat/operators.h"
#include "chat/printing.h"
#include "chat/text.h"
#include "chat/text_literal.h"

namespace diffulex_edge::chat {
namespace {

std::optional<std::string> optional_text(const std::optional<Value>& value) {
  if (!value || value->is_none()) {
    return std::nullopt;
  }
  if (!value->is_text()) {
    throw Failure("a text is needed, not " + value->type_name());
  }
  return *value->if_text();
}

std::int64_t to_integer(const Value& value) {
  const auto integer = value.if_integer();
  if (!integer) {
    check_defined(value);
    throw Failure("an integer is needed, not " + value.type_name());
  }
  return *integer;
}

Value changed_text(const Value& input, std::string text) { return Value::text(std::move(text), input.is_markup()); }

Value filter_trim(Context& /*context*/, const Value& input, ArgumentReader& arguments) {
  const auto characters = optional_text(arguments.next("chars"));
  return changed_text(input, std::string(strip(to_text(input), Side::kBoth, characters)));
}

Value filter_upper(Context& /*context*/, const Value& input, ArgumentReader& /*arguments*/) {
  return changed_text(input, upper(to_text(input)));
}

Value filter_lower(Context& /*context*/, const Value& input, ArgumentReader& /*arguments*/) {
  return changed_text(input, lower(to_text(input)));
}

Value filter_title(Context& /*context*/, const Value& input, ArgumentReader& /*arguments*/) {
  return Value::text(title_of_words(to_text(input)));
}

Value filter_capitalize(Context& /*context*/, const Value& input, ArgumentReader& /*arguments*/) {
  return changed_text(input, capitalize(to_text(input)));
}

Value filter_string(Context& /*context*/, const Value& input, ArgumentReader& /*arguments*/) {
  return changed_text(input, to_text(input));
}

Value filter_safe(Context& /*context*/, const Value& input, ArgumentReader& /*arguments*/) {
  return Value::text(to_text(input), true);
}

Value filter_escape(Context& /*context*/, const Value& input, ArgumentReader& /*arguments*/) {
  return Value::text(input.is_markup() ? to_text(input) : escape_html(to_text(input)), true);
}

Value filter_replace(Context& /*context*/, const Value& input, ArgumentReader& arguments) {
  const std::string old = to_text(arguments.require("old"));
  const std::string by = to_text(arguments.require("new"));
  const Value count = arguments.next_or("count", Value::none());
  return Value::text(replace(to_text(input), old, by, count.is_none() ? kAll : to_integer(count)));
}

Value filter_indent(Context& /*context*/, const Value& input, ArgumentReader& arguments) {
  const Value width = arguments.next_or("width", Value::integer(4));
  const bool first = arguments.next_or("first", Value(false)).truth();
  const bool blank = arguments.next_or("blank", Value(false)).truth();
  const std::int64_t spaces = width.is_text() ? 0 : std::max<std::int64_t>(to_integer(width), 0);
  check_text(static_cast<std::size_t>(spaces));
  if (!input.is_text()) {
    check_defined(input);
    throw Failure("'indent' needs a text, not " + input.type_name());
  }
  const std::string indent = width.is_text() ? *width.if_text() : std::string(static_cast<std::size_t>(spaces), ' ');
  std::string result = first ? indent : std::string();
  bool beginning = true;
  for (const std::string& line : split_lines(*input.if_text() + "\n")) {
    if (!beginning) {
      append(result, "\n");
      append(result, blank || !line.empty() ? indent : std::string());
    }
    append(result, line);
    beginning = false;
  }
  return changed_text(input, std::move(result));
}

Value filter_format(Context& /*context*/, const Value& input, ArgumentReader& arguments) {
  std::vector<Value> values;
  while (const auto value = arguments.next("")) {
    values.push_back(*value);
  }
  return Value::text(percent_format(to_text(input), make_list(std::move(values), ListKind::kTuple)));
}

Value filter_default(Context& /*context*/, const Value& input, ArgumentReader& arguments) {
  const Value fallback = arguments.next_or("default_value", Value::text(""));
  const bool also_false = arguments.next_or("boolean", Value(false)).truth();
  return input.is_undefined() || (also_false && !input.truth()) ? fallback : input;
}

// As int() of Python, and as int(float()) where that fails.
Value filter_int(Context& /*context*/, const Value& input, ArgumentReader& arguments) {
  Value fallback = arguments.next_or("default", Value::integer(0));
  const auto base =
      static_cast<int>(std::clamp<std::int64_t>(to_integer(arguments.next_or("base", Value::integer(10))), -1, 99));
  check_defined(input);
  if (base != 10 && base != 2 && base != 8 && base != 16) {
    fail_unsupported("the filter 'int' with the base " + std::to_string(base));
  }
  std::optional<double> number = input.if_number();
  if (const auto integer = input.if_integer()) {
    return Value::integer(*integer);
  }
  if (const std::string* text = input.if_text()) {
    if (const auto integer = parse_integer(*text, base)) {
      return Value::integer(*integer);
    }
    number = parse_float(*text);
  }
  if (!number || !std::isfinite(*number)) {
    return fallback;
  }
  if (std::abs(*number) >= 9.2e18) {
    fail_unsupported("an integer of more than 64 bits");
  }
  return Value::integer(static_cast<std::int64_t>(*number));
}

Value filter_float(Context& /*context*/, const Value& input, ArgumentReader& arguments) {
  const Value fallback = arguments.next_or("default", Value(0.0));
  check_defined(input);
  const auto number = input.is_text() ? parse_float(*input.if_text()) : input.if_number();
  return number ? Value(*number) : fallback;
}

Value filter_abs(Context& /*context*/, const Value& input, ArgumentReader& /*arguments*/) {
  if (const auto integer = input.if_integer()) {
    return *integer < 0 ? negate(input) : Value::integer(*integer);
  }
  if (!input.is_float()) {
    throw Failure("'abs' needs a number, not " + input.type_name());
  }
  return Value(std::abs(input.number()));
}

// Correctly rounded from the number's exact value, as Python does.
double round_decimal(double value, std::int64_t precision) {
  if (!std::isfinite(value) || precision > 300) {
    return value;
  }
  if (precision < 0) {
    const double unit = std::pow(10.0, static_cast<double>(-precision));
    return std::nearbyint(value / unit) * unit;
  }
  std::array<char, 700> buffer{};
  std::snprintf(buffer.data(), buffer.size(), "%.*f", static_cast<int>(precision), value);
  return parse_float(buffer.data()).value_or(value);
}

Value filter_round(Context& /*context*/, const Value& input, ArgumentReader& arguments) {
  const std::int64_t precision = to_integer(arguments.next_or("precision", Value::integer(0)));
  const std::string method = to_text(arguments.next_or("method", Value::text("common")));
  const auto number = input.if_number();
  if (!number) {
    throw Failure("'round' needs a number, not " + input.type_name());
  }
  if (method == "common") {
    if (input.if_integer() && precision < 0) {
      fail_unsupported("the filter 'round' of an integer with a negative precision");
    }
    return input.if_integer() ? Value::integer(input.whole()) : Value(round_decimal(*number, precision));
  }
  if (method != "ceil" && method != "floor") {
    throw Failure("'round' has no method '" + method + "'");
  }
  const double unit = std::pow(10.0, static_cast<double>(precision));
  return Value((method == "ceil" ? std::ceil(*number * unit) : std::floor(*number * unit)) / unit);
}

std::optional<std::string> json_indent(const Value& value) {
  if (value.is_none()) {
    return std::nullopt;
  }
  if (const std::string* text = value.if_text()) {
    return *text;
  }
  const std::int64_t width = std::max<std::int64_t>(to_integer(value), 0);
  check_text(static_cast<std::size_t>(width));
  return std::string(static_cast<std::size_t>(width), ' ');
}

Value filter_tojson(Context& /*context*/, const Value& input, ArgumentReader& arguments) {
  JsonStyle style;
  style.ascii = arguments.next_or("ensure_ascii", Value(false)).truth();
  style.indent = json_indent(arguments.next_or("indent", Value::none()));
  if (style.indent) {
    style.item_separator = ",";
  }
  const Value separators = arguments.next_or("separators", Value::none());
  if (!separators.is_none()) {
    const std::vector<Value> parts = iterate(separators);
    if (parts.size() != 2 || !parts[0].is_text() || !parts[1].is_text()) {
      throw Failure("the separators of 'tojson' are not two texts");
    }
    style.item_separator = *parts[0].if_text();
    style.key_separator = *parts[1].if_text();
  }
  style.sort_keys = arguments.next_or("sort_keys", Value(false)).truth();
  return Value::text(to_json(input, style));
}

constexpr NamedFilter kTextFilters[] = {
    {"abs", filter_abs},       {"capitalize", filter_capitalize},
    {"d", filter_default},     {"default", filter_default},
    {"e", filter_escape},      {"escape", filter_escape},
    {"float", filter_float},   {"format", filter_format},
    {"indent", filter_indent}, {"int", filter_int},
    {"lower", filter_lower},   {"replace", filter_replace},
    {"round", filter_round},   {"safe", filter_safe},
    {"string", filter_string}, {"title", filter_title},
    {"tojson", filter_tojson}, {"trim", filter_trim},
    {"upper", filter_upper},
};

}  // namespace

Filter find_text_filter(std::string_view name) {
  const auto* const found =
      std::ranges::find_if(kTextFilters, [&](const NamedFilter& each) { return each.name == name; });
  return found == std::end(kTextFilters) ? nullptr : found->filter;
}

}  // namespace diffulex_edge::chat
