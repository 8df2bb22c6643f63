#include "chat/filters.h"

#include <algorithm>

#include "chat/attributes.h"
#include "chat/failure.h"
#include "chat/operators.h"
#include "chat/printing.h"
#include "chat/tests.h"

namespace diffulex_edge::chat {
namespace {

constexpr std::string_view kItemFilters[] = {"map", "reject", "rejectattr", "select", "selectattr"};

bool is_item_filter(std::string_view name) { return std::ranges::find(kItemFilters, name) != std::end(kItemFilters); }

std::string name_of(const Value& value, const std::string& what) {
  if (!value.is_text()) {
    throw Failure("the name of a " + what + " is not a text");
  }
  return *value.if_text();
}

Arguments without_first(const Arguments& arguments, std::size_t count) {
  Arguments rest = arguments;
  rest.positional.erase(rest.positional.begin(), rest.positional.begin() + static_cast<std::ptrdiff_t>(count));
  return rest;
}

// For looking at the input once. Results, and comparisons, are counted where they are made.
void charge_input(Context& context, std::string_view name, const Value& input) {
  if (name == "length" || name == "count" || name == "default" || name == "d") {
    return;
  }
  const auto list = input.if_list();
  context.budget.take(list ? list->items.size() : input.weight());
  context.charge_letters(input);
}

// map("filter", ...) and map(attribute="a.b", default=...).
Value map_items(Context& context, const std::vector<Value>& items, const Arguments& arguments) {
  std::vector<Value> result;
  if (arguments.positional.empty()) {
    ArgumentReader reader("map", arguments);
    const Value path = reader.require("attribute");
    const Value fallback = reader.next_or("default", Value::none());
    reader.finish();
    for (const Value& item : items) {
      result.push_back(path_of(item, path, fallback));
    }
    return make_list(std::move(result), ListKind::kIterator);
  }
  const std::string name = name_of(arguments.positional.front(), "filter");
  const Arguments rest = without_first(arguments, 1);
  for (const Value& item : items) {
    result.push_back(apply_filter(context, name, item, rest));
  }
  return make_list(std::move(result), ListKind::kIterator);
}

// select, reject, selectattr and rejectattr: by a test, or by the truth of what is tested.
Value select_items(Context& context, const std::string& name, const std::vector<Value>& items,
                   const Arguments& arguments) {
  const bool by_attribute = name.ends_with("attr");
  const bool wanted = name.starts_with("select");
  const std::size_t used = by_attribute ? 1 : 0;
  if (arguments.positional.size() < used) {
    throw Failure("'" + name + "' needs the name of an attribute");
  }
  const Value path = by_attribute ? arguments.positional.front() : Value::none();
  const bool by_test = arguments.positional.size() > used;
  const std::string test = by_test ? name_of(arguments.positional[used], "test") : "";
  const Arguments rest = without_first(arguments, used + (by_test ? 1 : 0));
  std::vector<Value> result;
  for (const Value& item : items) {
    const Value value = path_of(item, path);
    context.budget.take(rest.positional.empty() ? 1 : value.weight());
    if ((by_test ? apply_test(test, value, rest) : value.truth()) == wanted) {
      result.push_back(item);
    }
  }
  return make_list(std::move(result), ListKind::kIterator);
}

}  // namespace

bool is_filter(std::string_view name) {
  return find_text_filter(name) != nullptr || find_sequence_filter(name) != nullptr || is_item_filter(name);
}

Value apply_filter(Context& context, const std::string& name, const Value& input, const Arguments& arguments) {
  context.budget.take(1);
  if (is_item_filter(name)) {
    if (!input.truth()) {
      return make_list({}, ListKind::kIterator);
    }
    const std::vector<Value> items = iterate(input);
    context.budget.take(items.size());
    return name == "map" ? map_items(context, items, arguments) : select_items(context, name, items, arguments);
  }
  Filter filter = find_text_filter(name);
  if (filter == nullptr) {
    filter = find_sequence_filter(name);
  }
  if (filter == nullptr) {
    fail_unsupported("the filter '" + name + "'");
  }
  charge_input(context, name, input);
  ArgumentReader reader(name, arguments);
  Value result = filter(context, input, reader);
  reader.finish();
  context.charge(result);
  return result;
}

}  // namespace diffulex_edge::chat
