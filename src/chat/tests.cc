#include "chat/tests.h"

#include <algorithm>

#include "chat/failure.h"
#include "chat/filters.h"
#include "chat/letter_case.h"
#include "chat/operators.h"
#include "chat/printing.h"
#include "chat/text.h"

namespace diffulex_edge::chat {
namespace {

using Test = bool (*)(const Value&, ArgumentReader&);

bool is_none(const Value& value, ArgumentReader& /*arguments*/) { return value.is_none(); }
bool is_defined(const Value& value, ArgumentReader& /*arguments*/) { return !value.is_undefined(); }
bool is_undefined(const Value& value, ArgumentReader& /*arguments*/) { return value.is_undefined(); }
bool is_text(const Value& value, ArgumentReader& /*arguments*/) { return value.is_text(); }
bool is_boolean(const Value& value, ArgumentReader& /*arguments*/) { return value.is_bool(); }
bool is_true(const Value& value, ArgumentReader& /*arguments*/) { return value.is_bool() && value.truth(); }
bool is_false(const Value& value, ArgumentReader& /*arguments*/) { return value.is_bool() && !value.truth(); }
bool is_integer(const Value& value, ArgumentReader& /*arguments*/) { return !value.is_bool() && value.if_integer(); }
bool is_float(const Value& value, ArgumentReader& /*arguments*/) { return value.is_float(); }
bool is_number(const Value& value, ArgumentReader& /*arguments*/) { return value.if_number().has_value(); }
bool is_mapping(const Value& value, ArgumentReader& /*arguments*/) { return value.if_dict() != nullptr; }
bool is_iterable_value(const Value& value, ArgumentReader& /*arguments*/) { return is_iterable(value); }
bool is_callable(const Value& value, ArgumentReader& /*arguments*/) {
  return value.if_function() != nullptr || value.is_undefined();
}
bool is_escaped(const Value& value, ArgumentReader& /*arguments*/) { return value.is_markup(); }

// Python's len() and [] work on it.
bool is_sequence(const Value& value, ArgumentReader& /*arguments*/) {
  const auto list = value.if_list();
  return value.is_undefined() || value.is_text() || value.if_dict() ||
         (list && list->kind != ListKind::kIterator && list->kind != ListKind::kView);
}

bool has_case(const Value& value, std::string (*map)(std::string_view)) {
  const std::string text = to_text(value);
  const std::u32string characters = decode(text);
  return map(text) == text && std::ranges::any_of(characters, is_cased);
}

bool is_lower(const Value& value, ArgumentReader& /*arguments*/) { return has_case(value, lower); }
bool is_upper(const Value& value, ArgumentReader& /*arguments*/) { return has_case(value, upper); }

Value rest_of_division(const Value& value, const Value& by) {
  if (value.is_text()) {
    throw Failure("a text can't be divided");
  }
  return calculate(Operator::kModulo, value, by);
}

bool is_odd(const Value& value, ArgumentReader& /*arguments*/) {
  return equal(rest_of_division(value, Value::integer(2)), Value::integer(1));
}
bool is_even(const Value& value, ArgumentReader& /*arguments*/) {
  return equal(rest_of_division(value, Value::integer(2)), Value::integer(0));
}
bool is_divisible(const Value& value, ArgumentReader& arguments) {
  return equal(rest_of_division(value, arguments.require("num")), Value::integer(0));
}

bool is_equal(const Value& value, ArgumentReader& arguments) { return equal(value, arguments.require("other")); }
bool is_not_equal(const Value& value, ArgumentReader& arguments) { return !equal(value, arguments.require("other")); }
bool is_less(const Value& value, ArgumentReader& arguments) {
  return compare(Operator::kLess, value, arguments.require("other"));
}
bool is_less_equal(const Value& value, ArgumentReader& arguments) {
  return compare(Operator::kLessEqual, value, arguments.require("other"));
}
bool is_greater(const Value& value, ArgumentReader& arguments) {
  return compare(Operator::kGreater, value, arguments.require("other"));
}
bool is_greater_equal(const Value& value, ArgumentReader& arguments) {
  return compare(Operator::kGreaterEqual, value, arguments.require("other"));
}
bool is_in(const Value& value, ArgumentReader& arguments) { return contains(arguments.require("seq"), value); }
bool is_same(const Value& value, ArgumentReader& arguments) { return value.same_as(arguments.require("other")); }

// Whether there is a filter or test of this name.
bool names_filter(const Value& value, ArgumentReader& /*arguments*/) {
  return value.is_text() && is_filter(*value.if_text());
}
bool names_test(const Value& value, ArgumentReader& /*arguments*/) {
  return value.is_text() && chat::is_test(*value.if_text());
}

struct NamedTest {
  std::string_view name;
  Test test;
};

constexpr NamedTest kTests[] = {
    {"!=", is_not_equal},
    {"<", is_less},
    {"<=", is_less_equal},
    {"==", is_equal},
    {">", is_greater},
    {">=", is_greater_equal},
    {"boolean", is_boolean},
    {"callable", is_callable},
    {"defined", is_defined},
    {"divisibleby", is_divisible},
    {"eq", is_equal},
    {"equalto", is_equal},
    {"escaped", is_escaped},
    {"even", is_even},
    {"false", is_false},
    {"filter", names_filter},
    {"float", is_float},
    {"ge", is_greater_equal},
    {"greaterthan", is_greater},
    {"gt", is_greater},
    {"in", is_in},
    {"integer", is_integer},
    {"iterable", is_iterable_value},
    {"le", is_less_equal},
    {"lessthan", is_less},
    {"lower", is_lower},
    {"lt", is_less},
    {"mapping", is_mapping},
    {"ne", is_not_equal},
    {"none", is_none},
    {"number", is_number},
    {"odd", is_odd},
    {"sameas", is_same},
    {"sequence", is_sequence},
    {"string", is_text},
    {"test", names_test},
    {"true", is_true},
    {"undefined", is_undefined},
    {"upper", is_upper},
};

const NamedTest* find_test(std::string_view name) {
  const auto* const found = std::ranges::find_if(kTests, [&](const NamedTest& each) { return each.name == name; });
  return found == std::end(kTests) ? nullptr : found;
}

}  // namespace

bool is_test(std::string_view name) { return find_test(name) != nullptr; }

bool apply_test(const std::string& name, const Value& value, const Arguments& arguments) {
  const NamedTest* test = find_test(name);
  if (test == nullptr) {
    fail_unsupported("the test '" + name + "'");
  }
  ArgumentReader reader(name, arguments);
  const bool result = test->test(value, reader);
  reader.finish();
  return result;
}

}  // namespace diffulex_edge::chat
