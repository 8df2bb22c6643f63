#include <algorithm>

#include "chat/attributes.h"
#include "chat/failure.h"
#include "chat/filters.h"
#include "chat/interpreter.h"
#include "chat/limits.h"
#include "chat/operators.h"
#include "chat/printing.h"
#include "chat/tests.h"

namespace diffulex_edge::chat {

Value Interpreter::evaluate(const Expression& expression, const ScopePointer& scope) {
  enter();
  line_ = expression.line;
  Value value = evaluate_kind(expression, scope);
  --running_;
  return value;
}

Value Interpreter::evaluate_kind(const Expression& expression, const ScopePointer& scope) {
  switch (expression.kind) {
    case ExpressionKind::kConstant:
      return expression.value;
    case ExpressionKind::kName:
      return evaluate_name(expression, scope);
    case ExpressionKind::kAttribute:
      return attribute_of(evaluate(*expression.operands[0], scope), expression.name);
    case ExpressionKind::kItem: {
      const Value object = evaluate(*expression.operands[0], scope);
      return item_of(object, evaluate(*expression.operands[1], scope));
    }
    case ExpressionKind::kSlice:
      return evaluate_slice(expression, scope);
    case ExpressionKind::kCall:
      return evaluate_call(expression, scope);
    case ExpressionKind::kFilter:
      return evaluate_filter(expression, evaluate(*expression.operands[0], scope), scope);
    case ExpressionKind::kTest:
      return evaluate_test(expression, scope);
    case ExpressionKind::kList:
    case ExpressionKind::kTuple:
      return evaluate_list(expression, scope);
    case ExpressionKind::kDict:
      return evaluate_dict(expression, scope);
    case ExpressionKind::kArithmetic:
      return evaluate_arithmetic(expression, scope);
    case ExpressionKind::kComparison:
      return evaluate_comparison(expression, scope);
    case ExpressionKind::kConcatenation:
      return evaluate_concatenation(expression, scope);
    case ExpressionKind::kNegation:
      return negate(evaluate(*expression.operands[0], scope));
    case ExpressionKind::kPlus:
      return negate(negate(evaluate(*expression.operands[0], scope)));
    default:
      return evaluate_logic(expression, scope);
  }
}

Value Interpreter::evaluate_optional(const ExpressionPointer& expression, const ScopePointer& scope) {
  return expression == nullptr ? Value::none() : evaluate(*expression, scope);
}

Value Interpreter::evaluate_name(const Expression& expression, const ScopePointer& scope) {
  const Value* found = scope->find(expression.name);
  return found == nullptr ? global_function(context_, expression.name) : *found;
}

Value Interpreter::evaluate_list(const Expression& expression, const ScopePointer& scope) {
  std::vector<Value> items;
  items.reserve(expression.operands.size());
  for (const ExpressionPointer& operand : expression.operands) {
    items.push_back(evaluate(*operand, scope));
  }
  return make_list(std::move(items), expression.kind == ExpressionKind::kTuple ? ListKind::kTuple : ListKind::kList);
}

Value Interpreter::evaluate_dict(const Expression& expression, const ScopePointer& scope) {
  Dict dict;
  for (std::size_t i = 0; i < expression.operands.size(); i += 2) {
    const Value key = evaluate(*expression.operands[i], scope);
    dict.set(key, evaluate(*expression.operands[i + 1], scope));
  }
  return make_dict(std::move(dict));
}

Value Interpreter::evaluate_slice(const Expression& expression, const ScopePointer& scope) {
  const Value object = evaluate(*expression.operands[0], scope);
  const Value begin = evaluate_optional(expression.operands[1], scope);
  const Value end = evaluate_optional(expression.operands[2], scope);
  const Value step = evaluate_optional(expression.operands[3], scope);
  return context_.charge(slice_of(object, begin, end, step));
}

Arguments Interpreter::evaluate_arguments(const Expression& expression, const ScopePointer& scope) {
  Arguments arguments;
  for (const ExpressionPointer& each : expression.positional) {
    arguments.positional.push_back(evaluate(*each, scope));
  }
  for (const auto& [name, value] : expression.named) {
    arguments.named.emplace_back(name, evaluate(*value, scope));
  }
  return arguments;
}

// To look for a text in another takes the product of their lengths at worst.
void Interpreter::charge_search(const Value& text, const Value& part) {
  constexpr std::uint64_t kComparisonsPerStep = 64;
  if (text.is_text() && part.is_text()) {
    context_.budget.take(std::uint64_t{text.if_text()->size()} * part.if_text()->size() / kComparisonsPerStep);
  }
}

// Values are compared as far as both go; `in` compares with each item.
void Interpreter::charge_comparison(bool is_search, const Value& left, const Value& right) {
  const auto list = right.if_list();
  if (is_search && list) {
    context_.budget.take(std::min(list->weight, list->items.size() * left.weight()));
  } else if (is_search) {
    charge_search(right, left);
  } else {
    context_.budget.take(std::min(left.weight(), right.weight()));
  }
}

Value Interpreter::evaluate_call(const Expression& expression, const ScopePointer& scope,
                                 const std::optional<Value>& caller) {
  const Expression& called = *expression.operands[0];
  // A method's object is charged for, so it is evaluated here.
  Value object;
  Value function;
  if (called.kind == ExpressionKind::kAttribute) {
    object = evaluate(*called.operands[0], scope);
    line_ = called.line;
    function = attribute_of(object, called.name);
  } else {
    function = evaluate(called, scope);
  }
  Arguments arguments = evaluate_arguments(expression, scope);
  if (caller) {
    arguments.named.emplace_back("caller", *caller);
  }
  line_ = expression.line;
  check_defined(function);
  const auto target = function.if_function();
  if (target == nullptr) {
    throw Failure("a " + function.type_name() + " can't be called");
  }
  if (object.is_text()) {
    context_.charge_letters(object);
    if (!arguments.positional.empty()) {
      charge_search(object, arguments.positional.front());
    }
  }
  return context_.charge(target->call(arguments));
}

Value Interpreter::evaluate_filter(const Expression& expression, const Value& input, const ScopePointer& scope) {
  const Arguments arguments = evaluate_arguments(expression, scope);
  line_ = expression.line;
  if (!arguments.positional.empty()) {
    charge_search(input, arguments.positional.front());
  }
  return apply_filter(context_, expression.name, input, arguments);
}

// The filters of a block, whose head has no input of its own.
Value Interpreter::apply_filters(const Expression& expression, const Value& head, const ScopePointer& scope) {
  const ExpressionPointer& input = expression.operands[0];
  return evaluate_filter(expression, input == nullptr ? head : apply_filters(*input, head, scope), scope);
}

Value Interpreter::evaluate_test(const Expression& expression, const ScopePointer& scope) {
  const Value value = evaluate(*expression.operands[0], scope);
  const Arguments arguments = evaluate_arguments(expression, scope);
  line_ = expression.line;
  context_.budget.take(value.is_text() ? value.weight() : 1);
  if (expression.name == "lower" || expression.name == "upper") {
    context_.charge_letters(value);
  }
  if (!arguments.positional.empty()) {
    charge_comparison(expression.name == "in", value, arguments.positional.front());
  }
  return Value(apply_test(expression.name, value, arguments));
}

Value Interpreter::evaluate_arithmetic(const Expression& expression, const ScopePointer& scope) {
  const Value left = evaluate(*expression.operands[0], scope);
  const Value right = evaluate(*expression.operands[1], scope);
  line_ = expression.line;
  return context_.charge(calculate(expression.operations[0], left, right));
}

Value Interpreter::evaluate_comparison(const Expression& expression, const ScopePointer& scope) {
  Value left = evaluate(*expression.operands[0], scope);
  for (std::size_t i = 0; i < expression.operations.size(); ++i) {
    Value right = evaluate(*expression.operands[i + 1], scope);
    line_ = expression.line;
    const Operator operation = expression.operations[i];
    charge_comparison(operation == Operator::kIn || operation == Operator::kNotIn, left, right);
    if (!compare(operation, left, right)) {
      return Value(false);
    }
    left = std::move(right);
  }
  return Value(true);
}

Value Interpreter::evaluate_concatenation(const Expression& expression, const ScopePointer& scope) {
  std::string text;
  for (const ExpressionPointer& operand : expression.operands) {
    append(text, to_text(evaluate(*operand, scope)));
  }
  return context_.charge(Value::text(std::move(text)));
}

Value Interpreter::evaluate_logic(const Expression& expression, const ScopePointer& scope) {
  const Value first = evaluate(*expression.operands[0], scope);
  switch (expression.kind) {
    case ExpressionKind::kNot:
      return Value(!first.truth());
    case ExpressionKind::kAnd:
      return first.truth() ? evaluate(*expression.operands[1], scope) : first;
    case ExpressionKind::kOr:
      return first.truth() ? first : evaluate(*expression.operands[1], scope);
    default:
      break;
  }
  if (first.truth()) {
    return evaluate(*expression.operands[1], scope);
  }
  const ExpressionPointer& otherwise = expression.operands[2];
  return otherwise != nullptr ? evaluate(*otherwise, scope)
                              : Value::undefined("the condition of an 'if' without 'else' does not hold");
}

}  // namespace diffulex_edge::chat
