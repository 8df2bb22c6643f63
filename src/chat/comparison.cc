#include "chat/operators.h"

#include <algorithm>
#include <compare>

#include "chat/failure.h"
#include "chat/text.h"

namespace diffulex_edge::chat {
namespace {

std::string_view symbol(Operator operation) {
  static constexpr std::string_view kSymbols[] = {
      "+", "-", "*", "/", "//", "%", "**", "==", "!=", "<", "<=", ">", ">=", "in", "not in"};
  return kSymbols[static_cast<std::size_t>(operation)];
}

std::partial_ordering order_numbers(const Value& left, const Value& right) {
  if (left.is_float() && right.is_float()) {
    return left.number() <=> right.number();
  }
  const auto wide = [](const Value& value) {  // exact for both kinds
    const auto integer = value.if_integer();
    return integer ? static_cast<long double>(*integer) : static_cast<long double>(value.number());
  };
  return wide(left) <=> wide(right);
}

bool equal_lists(const List& left, const List& right) {
  if (left.kind != right.kind || left.kind == ListKind::kView || left.kind == ListKind::kIterator ||
      left.items.size() != right.items.size()) {
    return &left == &right;
  }
  for (std::size_t i = 0; i < left.items.size(); ++i) {
    if (!equal(left.items[i], right.items[i])) {
      return false;
    }
  }
  return true;
}

bool equal_dicts(const Dict& left, const Dict& right) {
  if (left.items.size() != right.items.size()) {
    return false;
  }
  return std::ranges::all_of(left.items, [&](const auto& item) {
    const Value* found = right.find(item.first);
    return found != nullptr && equal(item.second, *found);
  });
}

std::partial_ordering order(Operator operation, const Value& left, const Value& right) {
  if (left.if_number() && right.if_number()) {
    return order_numbers(left, right);
  }
  if (left.is_text() && right.is_text()) {
    return *left.if_text() <=> *right.if_text();  // UTF-8 sorts as its characters do
  }
  const auto first = left.if_list();
  const auto second = right.if_list();
  if (!is_list_or_tuple(first.get()) || !is_list_or_tuple(second.get()) || first->kind != second->kind) {
    fail_operands(operation, left, right);
  }
  const std::size_t common = std::min(first->items.size(), second->items.size());
  for (std::size_t i = 0; i < common; ++i) {
    if (!equal(first->items[i], second->items[i])) {
      return order(operation, first->items[i], second->items[i]);
    }
  }
  return first->items.size() <=> second->items.size();
}

}  // namespace

void fail_operands(Operator operation, const Value& left, const Value& right) {
  check_defined(left);
  check_defined(right);
  throw Failure("'" + std::string(symbol(operation)) + "' does not work on " + left.type_name() + " and " +
                right.type_name());
}

bool is_list_or_tuple(const List* list) {
  return list != nullptr && (list->kind == ListKind::kList || list->kind == ListKind::kTuple);
}

void check_defined(const Value& value) {
  if (value.is_undefined()) {
    throw Failure(value.why_undefined());
  }
}

bool equal(const Value& left, const Value& right) {
  if (left.if_number() && right.if_number()) {
    return order_numbers(left, right) == std::partial_ordering::equivalent;
  }
  if (left.is_text() && right.is_text()) {
    return *left.if_text() == *right.if_text();
  }
  if (left.if_list() && right.if_list()) {
    return equal_lists(*left.if_list(), *right.if_list());
  }
  if (left.if_dict() && right.if_dict()) {
    return equal_dicts(*left.if_dict(), *right.if_dict());
  }
  if (left.is_undefined() || left.is_none()) {
    return left.is_undefined() == right.is_undefined() && left.is_none() == right.is_none();
  }
  // Objects, or two types.
  return (left.if_namespace() && left.if_namespace() == right.if_namespace()) ||
         (left.if_function() && left.if_function() == right.if_function()) ||
         (left.if_loop() && left.if_loop() == right.if_loop());
}

bool less(const Value& left, const Value& right) {
  return order(Operator::kLess, left, right) == std::partial_ordering::less;
}

bool contains(const Value& container, const Value& item) {
  if (const std::string* text = container.if_text()) {
    const std::string* part = item.if_text();
    if (part == nullptr) {
      throw Failure("'in' looks for text in a text, not for " + item.type_name());
    }
    return text->find(*part) != std::string::npos;
  }
  if (const auto dict = container.if_dict()) {
    check_hashable(item);
    return dict->find(item) != nullptr;
  }
  return std::ranges::any_of(iterate(container), [&](const Value& each) { return equal(each, item); });
}

bool compare(Operator operation, const Value& left, const Value& right) {
  switch (operation) {
    case Operator::kEqual:
      return equal(left, right);
    case Operator::kNotEqual:
      return !equal(left, right);
    case Operator::kIn:
      return contains(right, left);
    case Operator::kNotIn:
      return !contains(right, left);
    case Operator::kLess:
      return std::is_lt(order(operation, left, right));
    case Operator::kLessEqual:
      return std::is_lteq(order(operation, left, right));
    case Operator::kGreater:
      return std::is_gt(order(operation, left, right));
    default:
      return std::is_gteq(order(operation, left, right));
  }
}

bool is_iterable(const Value& value) {
  return value.is_undefined() || value.is_text() || value.if_list() || value.if_dict();
}

std::vector<Value> iterate(const Value& value) {
  std::vector<Value> items;
  if (value.is_undefined()) {
    return items;
  }
  if (const std::string* text = value.if_text()) {
    return characters(*text);
  }
  if (const auto list = value.if_list()) {
    const std::size_t begin = list->consumed;
    if (list->kind == ListKind::kIterator) {
      list->consumed = list->items.size();
    }
    return {list->items.begin() + static_cast<std::ptrdiff_t>(begin), list->items.end()};
  }
  if (const auto dict = value.if_dict()) {
    for (const auto& [key, unused] : dict->items) {
      items.push_back(key);
    }
    return items;
  }
  throw Failure("a " + value.type_name() + " can't be iterated over");
}

std::string escape_html(std::string_view text) {
  std::string escaped;
  for (const char character : text) {
    switch (character) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&#34;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      default:
        escaped += character;
    }
  }
  check_text(escaped.size());
  return escaped;
}

}  // namespace diffulex_edge::chat
