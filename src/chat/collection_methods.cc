#include <algorithm>

#include "chat/failure.h"
#include "chat/methods.h"
#include "chat/operators.h"

namespace diffulex_edge::chat {
namespace {

bool is_one_of(std::initializer_list<std::string_view> names, const std::string& name) {
  return std::ranges::find(names, name) != names.end();
}

// What would change a list or dict; Jinja's sandbox for chat templates refuses it too.
Value refused(const std::string& name) {
  return make_function(name, [name](const Arguments& /*arguments*/) -> Value {
    throw Failure("'" + name + "' would change a list or dict, which templates may not");
  });
}

Value dict_get(const Dict& dict, const Arguments& arguments) {
  ArgumentReader reader("get", arguments);
  const Value key = reader.require("key");
  const Value fallback = reader.next_or("default", Value::none());
  if (!arguments.named.empty()) {
    throw Failure("'get' takes no named arguments");
  }
  reader.finish();
  check_hashable(key);
  const Value* found = dict.find(key);
  return found == nullptr ? fallback : *found;
}

Value view(const Dict& dict, const std::string& name, const Arguments& arguments) {
  ArgumentReader(name, arguments).finish();
  std::vector<Value> items;
  items.reserve(dict.items.size());
  for (const auto& [key, value] : dict.items) {
    if (name == "items") {
      items.push_back(make_list({key, value}, ListKind::kTuple));
    } else {
      items.push_back(name == "keys" ? key : value);
    }
  }
  return make_list(std::move(items), ListKind::kView, "dict_" + name);
}

Value count_items(const List& list, const Arguments& arguments) {
  ArgumentReader reader("count", arguments);
  const Value wanted = reader.require("value");
  reader.finish();
  return Value::integer(
      std::count_if(list.items.begin(), list.items.end(), [&](const Value& item) { return equal(item, wanted); }));
}

Value index_of_item(const List& list, const Arguments& arguments) {
  ArgumentReader reader("index", arguments);
  const Value wanted = reader.require("value");
  reader.finish();
  const auto found = std::ranges::find_if(list.items, [&](const Value& item) { return equal(item, wanted); });
  if (found == list.items.end()) {
    throw Failure("'index' does not find the value in the list");
  }
  return Value::integer(found - list.items.begin());
}

}  // namespace

std::optional<Value> find_list_method(const Value& list, const std::string& name) {
  const auto items = list.if_list();
  if (items->kind == ListKind::kView || items->kind == ListKind::kIterator) {
    return std::nullopt;
  }
  if (items->kind == ListKind::kList &&
      is_one_of({"append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"}, name)) {
    return refused(name);
  }
  if (name == "count") {
    return make_function(
        name, [items](const Arguments& arguments) { return count_items(*items, arguments); }, 1 + list.nesting());
  }
  if (name == "index") {
    return make_function(
        name, [items](const Arguments& arguments) { return index_of_item(*items, arguments); }, 1 + list.nesting());
  }
  if (name == "copy" && items->kind == ListKind::kList) {
    return make_function(name, [list](const Arguments& /*arguments*/) { return list; }, 1 + list.nesting());
  }
  return std::nullopt;
}

std::optional<Value> find_dict_method(const Value& dict, const std::string& name) {
  const auto items = dict.if_dict();
  if (name == "get") {
    return make_function(
        name, [items](const Arguments& arguments) { return dict_get(*items, arguments); }, 1 + dict.nesting());
  }
  if (is_one_of({"items", "keys", "values"}, name)) {
    return make_function(
        name, [items, name](const Arguments& arguments) { return view(*items, name, arguments); }, 1 + dict.nesting());
  }
  if (name == "copy") {
    return make_function(name, [dict](const Arguments& /*arguments*/) { return dict; }, 1 + dict.nesting());
  }
  if (is_one_of({"clear", "pop", "popitem", "setdefault", "update"}, name)) {
    return refused(name);
  }
  if (name == "fromkeys") {
    fail_unsupported("the method 'fromkeys'");
  }
  return std::nullopt;
}

}  // namespace diffulex_edge::chat
