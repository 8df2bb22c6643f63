#include <algorithm>
#include <cmath>

#include "chat/attributes.h"
#include "chat/failure.h"
#include "chat/filters.h"
#include "chat/letter_case.h"
#include "chat/operators.h"
#include "chat/printing.h"
#include "chat/sorting.h"
#include "chat/text.h"

namespace diffulex_edge::chat {
namespace {

Value filter_length(Context& /*context*/, const Value& input, ArgumentReader& /*arguments*/) {
  if (const std::string* text = input.if_text()) {
    return Value::integer(length(*text));
  }
  if (const auto dict = input.if_dict()) {
    return Value::integer(static_cast<std::int64_t>(dict->items.size()));
  }
  const auto list = input.if_list();
  if (list && list->kind != ListKind::kIterator) {
    return Value::integer(static_cast<std::int64_t>(list->items.size()));
  }
  if (!input.is_undefined()) {
    throw Failure("a " + input.type_name() + " has no length");
  }
  return Value::integer(0);
}

Value filter_list(Context& /*context*/, const Value& input, ArgumentReader& /*arguments*/) {
  return make_list(iterate(input));
}

Value filter_items(Context& /*context*/, const Value& input, ArgumentReader& /*arguments*/) {
  std::vector<Value> items;
  const auto dict = input.if_dict();
  if (!dict && !input.is_undefined()) {
    throw Failure("'items' needs a dict, not " + input.type_name());
  }
  if (dict) {
    for (const auto& [key, value] : dict->items) {
      items.push_back(make_list({key, value}, ListKind::kTuple));
    }
  }
  return make_list(std::move(items), ListKind::kIterator);
}

Value filter_first(Context& /*context*/, const Value& input, ArgumentReader& /*arguments*/) {
  const auto list = input.if_list();
  if (list && list->kind == ListKind::kIterator && list->consumed < list->items.size()) {
    return list->items[list->consumed++];
  }
  const std::vector<Value> items = iterate(input);
  return items.empty() ? Value::undefined("the first item of something empty") : items.front();
}

Value filter_last(Context& /*context*/, const Value& input, ArgumentReader& /*arguments*/) {
  const auto list = input.if_list();
  if (list && list->kind == ListKind::kIterator) {
    throw Failure("a generator has no last item");
  }
  const std::vector<Value> items = iterate(input);
  return items.empty() ? Value::undefined("the last item of something empty") : items.back();
}

Value filter_reverse(Context& /*context*/, const Value& input, ArgumentReader& /*arguments*/) {
  if (const std::string* text = input.if_text()) {
    std::u32string characters = decode(*text);
    std::ranges::reverse(characters);
    return Value::text(encode(characters), input.is_markup());
  }
  std::vector<Value> items = iterate(input);
  std::ranges::reverse(items);
  return make_list(std::move(items), ListKind::kIterator);
}

Value filter_join(Context& /*context*/, const Value& input, ArgumentReader& arguments) {
  const std::string separator = to_text(arguments.next_or("d", Value::text("")));
  const Value path = arguments.next_or("attribute", Value::none());
  std::string text;
  bool first = true;
  for (const Value& item : iterate(input)) {
    append(text, first ? std::string() : separator);
    append(text, to_text(path_of(item, path)));
    first = false;
  }
  return Value::text(std::move(text));
}

Value comparable(Context& context, const Value& value, bool case_sensitive) {
  if (!value.is_text() || case_sensitive) {
    return value;
  }
  context.charge_letters(value);
  return Value::text(lower(*value.if_text()));
}

// By Python's sort: stable, also in reverse.
std::vector<Value> sorted(Context& context, std::vector<Value> items, const std::vector<Value>& keys, bool reverse) {
  std::uint64_t weight = 0;
  for (const Value& key : keys) {
    weight += key.weight();
  }
  context.budget.take(weight * static_cast<std::uint64_t>(2 + std::log2(static_cast<double>(items.size() + 1))));
  const auto before = [&](std::size_t left, std::size_t right) {
    return reverse ? less(keys[right], keys[left]) : less(keys[left], keys[right]);
  };
  std::vector<Value> result;
  result.reserve(items.size());
  for (const std::size_t position : sorted_positions(items.size(), before)) {
    result.push_back(std::move(items[position]));
  }
  return result;
}

Value filter_sort(Context& context, const Value& input, ArgumentReader& arguments) {
  const bool reverse = arguments.next_or("reverse", Value(false)).truth();
  const bool case_sensitive = arguments.next_or("case_sensitive", Value(false)).truth();
  const Value path = arguments.next_or("attribute", Value::none());
  std::vector<Value> paths = {path};
  if (path.is_text()) {
    paths.clear();
    for (std::string& part : split(*path.if_text(), ",")) {
      paths.push_back(Value::text(std::move(part)));
    }
  }
  const std::vector<Value> items = iterate(input);
  std::vector<Value> keys;
  for (const Value& item : items) {
    std::vector<Value> key;
    for (const Value& each : paths) {
      key.push_back(comparable(context, path_of(item, each), case_sensitive));
    }
    keys.push_back(make_list(std::move(key)));
  }
  return make_list(sorted(context, items, keys, reverse));
}

Value filter_dictsort(Context& context, const Value& input, ArgumentReader& arguments) {
  const bool case_sensitive = arguments.next_or("case_sensitive", Value(false)).truth();
  const std::string by = to_text(arguments.next_or("by", Value::text("key")));
  const bool reverse = arguments.next_or("reverse", Value(false)).truth();
  const auto dict = input.if_dict();
  check_defined(input);
  if (!dict || (by != "key" && by != "value")) {
    throw Failure(dict ? "'dictsort' sorts by key or value" : "'dictsort' needs a dict, not " + input.type_name());
  }
  std::vector<Value> items;
  std::vector<Value> keys;
  for (const auto& [key, value] : dict->items) {
    items.push_back(make_list({key, value}, ListKind::kTuple));
    keys.push_back(comparable(context, by == "key" ? key : value, case_sensitive));
  }
  return make_list(sorted(context, std::move(items), keys, reverse));
}

Value filter_unique(Context& context, const Value& input, ArgumentReader& arguments) {
  const bool case_sensitive = arguments.next_or("case_sensitive", Value(false)).truth();
  const Value path = arguments.next_or("attribute", Value::none());
  Dict seen;
  std::vector<Value> result;
  for (const Value& item : iterate(input)) {
    const Value key = comparable(context, path_of(item, path), case_sensitive);
    check_hashable(key);
    context.budget.take(key.is_text() ? key.weight() : 1 + seen.weight);
    if (seen.find(key) == nullptr) {
      seen.set(key, Value::none());
      result.push_back(item);
    }
  }
  return make_list(std::move(result), ListKind::kIterator);
}

Value extreme(Context& context, const Value& input, ArgumentReader& arguments, bool greatest) {
  const bool case_sensitive = arguments.next_or("case_sensitive", Value(false)).truth();
  const Value path = arguments.next_or("attribute", Value::none());
  const std::vector<Value> items = iterate(input);
  if (items.empty()) {
    return Value::undefined("the least or greatest item of something empty");
  }
  const Value* found = &items.front();
  Value key = comparable(context, path_of(*found, path), case_sensitive);
  for (std::size_t i = 1; i < items.size(); ++i) {
    const Value next = comparable(context, path_of(items[i], path), case_sensitive);
    context.budget.take(next.weight());
    if (greatest ? less(key, next) : less(next, key)) {
      found = &items[i];
      key = next;
    }
  }
  return *found;
}

Value filter_min(Context& context, const Value& input, ArgumentReader& arguments) {
  return extreme(context, input, arguments, false);
}

Value filter_max(Context& context, const Value& input, ArgumentReader& arguments) {
  return extreme(context, input, arguments, true);
}

Value filter_sum(Context& context, const Value& input, ArgumentReader& arguments) {
  const Value path = arguments.next_or("attribute", Value::none());
  Value sum = arguments.next_or("start", Value::integer(0));
  if (sum.is_text()) {
    throw Failure("'sum' does not add texts");
  }
  for (const Value& item : iterate(input)) {
    sum = calculate(Operator::kAdd, sum, path_of(item, path));
    context.charge(sum);
  }
  return sum;
}

Value filter_attr(Context& /*context*/, const Value& input, ArgumentReader& arguments) {
  const std::string name = to_text(arguments.require("name"));
  const auto space = input.if_namespace();
  return input.if_dict() || (space && space->find(name) == nullptr) ? method_of(input, name)
                                                                    : attribute_of(input, name);
}

constexpr NamedFilter kSequenceFilters[] = {
    {"attr", filter_attr},   {"count", filter_length}, {"dictsort", filter_dictsort}, {"first", filter_first},
    {"items", filter_items}, {"join", filter_join},    {"last", filter_last},         {"length", filter_length},
    {"list", filter_list},   {"max", filter_max},      {"min", filter_min},           {"reverse", filter_reverse},
    {"sort", filter_sort},   {"sum", filter_sum},      {"unique", filter_unique},
};

}  // namespace

Filter find_sequence_filter(std::string_view name) {
  const auto* const found = std::ranges::find(kSequenceFilters, name, &NamedFilter::name);
  return found == std::end(kSequenceFilters) ? nullptr : found->filter;
}

}  // namespace diffulex_edge::chat
