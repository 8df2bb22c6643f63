#include "chat/operators.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "chat/failure.h"
#include "chat/formats.h"

namespace diffulex_edge::chat {
namespace {

[[noreturn]] void fail_large_integer() { fail_unsupported("an integer of more than 64 bits"); }

std::int64_t power(std::int64_t base, std::int64_t exponent) {
  if (exponent == 0 || base == 1) {
    return 1;
  }
  if (base == 0) {
    return 0;
  }
  if (base == -1) {
    return exponent % 2 == 0 ? 1 : -1;
  }
  std::int64_t result = 1;
  for (; exponent > 0; --exponent) {  // overflows soon
    if (__builtin_mul_overflow(result, base, &result)) {
      fail_large_integer();
    }
  }
  return result;
}

std::int64_t floor_divide(std::int64_t left, std::int64_t right) {
  if (right == -1) {  // the one quotient that may not fit
    std::int64_t result = 0;
    if (__builtin_sub_overflow(std::int64_t{0}, left, &result)) {
      fail_large_integer();
    }
    return result;
  }
  const std::int64_t quotient = left / right;
  return quotient - (left % right != 0 && (left % right < 0) != (right < 0) ? 1 : 0);
}

Value calculate_integers(Operator operation, std::int64_t left, std::int64_t right) {
  std::int64_t result = 0;
  bool overflow = false;
  switch (operation) {
    case Operator::kAdd:
      overflow = __builtin_add_overflow(left, right, &result);
      break;
    case Operator::kSubtract:
      overflow = __builtin_sub_overflow(left, right, &result);
      break;
    case Operator::kMultiply:
      overflow = __builtin_mul_overflow(left, right, &result);
      break;
    case Operator::kDivide:
      return Value(static_cast<double>(left) / static_cast<double>(right));
    case Operator::kFloorDivide:
      result = floor_divide(left, right);
      break;
    case Operator::kModulo:
      result = right == -1 ? 0 : left - floor_divide(left, right) * right;
      break;
    default:
      if (right < 0) {
        return Value(std::pow(static_cast<double>(left), static_cast<double>(right)));
      }
      result = power(left, right);
      break;
  }
  if (overflow) {
    fail_large_integer();
  }
  return Value::integer(result);
}

double modulo(double left, double right) {
  const double rest = std::fmod(left, right);
  if (rest == 0) {
    return std::copysign(0.0, right);
  }
  return (rest < 0) == (right < 0) ? rest : rest + right;
}

// As Python divides: the quotient belongs to the rest.
double floor_divide(double left, double right) {
  const double rest = std::fmod(left, right);
  double quotient = (left - rest) / right;
  if (rest != 0 && (rest < 0) != (right < 0)) {
    quotient -= 1;
  }
  if (quotient == 0) {
    return std::copysign(0.0, left / right);
  }
  const double floored = std::floor(quotient);
  return quotient - floored > 0.5 ? floored + 1 : floored;
}

double power(double left, double right) {
  const double result = std::pow(left, right);
  if (std::isnan(result) && !std::isnan(left) && !std::isnan(right)) {
    fail_unsupported("a complex number");
  }
  if (std::isinf(result) && !std::isinf(left) && !std::isinf(right)) {
    throw Failure("the power is too large");
  }
  return result;
}

Value calculate_floats(Operator operation, double left, double right) {
  switch (operation) {
    case Operator::kAdd:
      return Value(left + right);
    case Operator::kSubtract:
      return Value(left - right);
    case Operator::kMultiply:
      return Value(left * right);
    case Operator::kDivide:
      return Value(left / right);
    case Operator::kFloorDivide:
      return Value(floor_divide(left, right));
    case Operator::kModulo:
      return Value(modulo(left, right));
    default:
      return Value(power(left, right));
  }
}

Value calculate_numbers(Operator operation, const Value& left, const Value& right) {
  const bool divides =
      operation == Operator::kDivide || operation == Operator::kFloorDivide || operation == Operator::kModulo;
  const bool inverts = operation == Operator::kPower && left.number() == 0 && right.number() < 0;
  if (inverts || (divides && right.number() == 0)) {
    throw Failure("division by zero");
  }
  const auto first = left.if_integer();
  const auto second = right.if_integer();
  return first && second ? calculate_integers(operation, *first, *second)
                         : calculate_floats(operation, left.number(), right.number());
}

Value concatenate(const Value& left, const Value& right) {
  const bool markup = left.is_markup() || right.is_markup();
  const auto side = [&](const Value& value) {
    return markup && !value.is_markup() ? escape_html(*value.if_text()) : *value.if_text();
  };
  std::string text = side(left);
  append(text, side(right));
  return Value::text(std::move(text), markup);
}

Value join_lists(const Value& left, const Value& right) {
  const auto first = left.if_list();
  const auto second = right.if_list();
  if (!is_list_or_tuple(first.get()) || !is_list_or_tuple(second.get()) || first->kind != second->kind) {
    fail_operands(Operator::kAdd, left, right);
  }
  check_items(first->items.size() + second->items.size());
  std::vector<Value> items = first->items;
  items.insert(items.end(), second->items.begin(), second->items.end());
  return make_list(std::move(items), first->kind);
}

Value repeat(const Value& value, std::int64_t times) {
  const auto count = static_cast<std::uint64_t>(std::max<std::int64_t>(times, 0));
  if (const std::string* text = value.if_text()) {
    check_text(count > kMaxText && !text->empty() ? kMaxText + 1 : text->size() * count);
    std::string result;
    for (std::uint64_t i = 0; i < count && !text->empty(); ++i) {
      result += *text;
    }
    return Value::text(std::move(result), value.is_markup());
  }
  const auto list = value.if_list();
  check_items(count > kMaxItems && !list->items.empty() ? kMaxItems + 1 : list->items.size() * count);
  std::vector<Value> items;
  for (std::uint64_t i = 0; i < count && !list->items.empty(); ++i) {
    items.insert(items.end(), list->items.begin(), list->items.end());
  }
  return make_list(std::move(items), list->kind);
}

bool repeats(const Value& value) { return value.is_text() || is_list_or_tuple(value.if_list().get()); }

}  // namespace

Value calculate(Operator operation, const Value& left, const Value& right) {
  if (left.if_number() && right.if_number()) {
    return calculate_numbers(operation, left, right);
  }
  if (operation == Operator::kModulo && left.is_text()) {
    return Value::text(percent_format(*left.if_text(), right));
  }
  if (operation == Operator::kAdd && left.is_text() && right.is_text()) {
    return concatenate(left, right);
  }
  if (operation == Operator::kAdd && left.if_list() && right.if_list()) {
    return join_lists(left, right);
  }
  if (operation == Operator::kMultiply && repeats(left) && right.if_integer()) {
    return repeat(left, right.whole());
  }
  if (operation == Operator::kMultiply && left.if_integer() && repeats(right)) {
    return repeat(right, left.whole());
  }
  fail_operands(operation, left, right);
}

Value negate(const Value& operand) {
  check_defined(operand);
  if (const auto integer = operand.if_integer()) {
    return calculate_integers(Operator::kSubtract, 0, *integer);
  }
  if (!operand.is_float()) {
    throw Failure("'-' does not work on " + operand.type_name());
  }
  return Value(-operand.number());
}

}  // namespace diffulex_edge::chat
