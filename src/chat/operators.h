// Arithmetic and comparisons, as Python does them. All throw Failure for operands that Python refuses.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "chat/limits.h"
#include "chat/value.h"

namespace diffulex_edge::chat {

enum class Operator {
  kAdd,
  kSubtract,
  kMultiply,
  kDivide,
  kFloorDivide,
  kModulo,
  kPower,
  kEqual,
  kNotEqual,
  kLess,
  kLessEqual,
  kGreater,
  kGreaterEqual,
  kIn,
  kNotIn,
};

// `operation` is arithmetic.
Value calculate(Operator operation, const Value& left, const Value& right);
Value negate(const Value& operand);
// `operation` is a comparison.
bool compare(Operator operation, const Value& left, const Value& right);

bool equal(const Value& left, const Value& right);
bool less(const Value& left, const Value& right);
bool contains(const Value& container, const Value& item);

// The items of a list, keys of a dict, or characters of a text; what is left of an iterator is consumed.
std::vector<Value> iterate(const Value& value);
bool is_iterable(const Value& value);

// Throws the Failure of an operation on something undefined, if `value` is.
void check_defined(const Value& value);
// Throws the Failure of operands that `operation` does not take.
[[noreturn]] void fail_operands(Operator operation, const Value& left, const Value& right);

bool is_list_or_tuple(const List* list);

// The text with <, >, &, " and ' as HTML entities: what markup escapes.
std::string escape_html(std::string_view text);

}  // namespace diffulex_edge::chat
