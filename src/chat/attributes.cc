#include "chat/attributes.h"

#include <algorithm>

#include "chat/failure.h"
#include "chat/methods.h"
#include "chat/operators.h"
#include "chat/printing.h"
#include "chat/text.h"
#include "chat/text_literal.h"

namespace diffulex_edge::chat {
namespace {

Value no_attribute(const Value& object, const std::string& name) {
  return Value::undefined("'" + object.type_name() + "' has no attribute '" + name + "'");
}

Value or_undefined(const std::optional<Value>& found, const char* why) {
  return found ? *found : Value::undefined(why);
}

Value cycle(const Loop& loop, const Arguments& arguments) {
  if (arguments.positional.empty()) {
    throw Failure("'cycle' needs values");
  }
  return arguments.positional[static_cast<std::size_t>(loop.index0) % arguments.positional.size()];
}

Value changed(Loop& loop, const Arguments& arguments) {
  const Value values = make_list(arguments.positional, ListKind::kTuple);
  const bool differs = !loop.changed || !equal(*loop.changed, values);
  loop.changed = values;
  return Value(differs);
}

Value loop_attribute(const std::shared_ptr<Loop>& loop, const std::string& name) {
  if (name == "index") {
    return Value::integer(loop->index0 + 1);
  }
  if (name == "index0") {
    return Value::integer(loop->index0);
  }
  if (name == "first") {
    return Value(loop->index0 == 0);
  }
  if (name == "last") {
    return Value(!loop->peek());
  }
  if (name == "length") {
    return Value::integer(loop->length());
  }
  if (name == "revindex") {
    return Value::integer(loop->length() - loop->index0);
  }
  if (name == "revindex0") {
    return Value::integer(loop->length() - loop->index0 - 1);
  }
  if (name == "previtem") {
    return or_undefined(loop->before, "there is no previous item");
  }
  if (name == "nextitem") {
    return or_undefined(loop->peek(), "there is no next item");
  }
  if (name == "depth" || name == "depth0") {
    return Value::integer(name == "depth" ? 1 : 0);
  }
  if (name == "cycle") {
    return make_function(name, [loop](const Arguments& arguments) { return cycle(*loop, arguments); });
  }
  if (name == "changed") {
    return make_function(name, [loop](const Arguments& arguments) { return changed(*loop, arguments); });
  }
  return no_attribute(Value(loop), name);
}

std::optional<std::size_t> position_in(std::size_t size, std::int64_t index) {
  const auto count = static_cast<std::int64_t>(size);
  if (index < -count || index >= count) {
    return std::nullopt;
  }
  return static_cast<std::size_t>(index < 0 ? index + count : index);
}

bool has_items(const List& list) { return list.kind != ListKind::kIterator && list.kind != ListKind::kView; }

// The item itself, without methods.
std::optional<Value> find_item(const Value& object, const Value& key) {
  if (const auto dict = object.if_dict()) {
    const Value* found = dict->find(key);
    return found == nullptr ? std::nullopt : std::optional(*found);
  }
  const auto index = key.if_integer();
  if (!index) {
    return std::nullopt;
  }
  if (const auto list = object.if_list(); list && has_items(*list)) {
    const auto position = position_in(list->items.size(), *index);
    return position ? std::optional(list->items[*position]) : std::nullopt;
  }
  if (const std::string* text = object.if_text()) {
    const std::u32string letters = decode(*text);
    const auto position = position_in(letters.size(), *index);
    return position ? std::optional(Value::text(encode(letters.substr(*position, 1)), object.is_markup()))
                    : std::nullopt;
  }
  return std::nullopt;
}

std::optional<Value> find_method(const Value& object, const std::string& name) {
  if (object.is_text()) {
    return find_text_method(object, name);
  }
  if (object.if_list()) {
    return find_list_method(object, name);
  }
  return object.if_dict() ? find_dict_method(object, name) : std::nullopt;
}

// Positions of a slice, as Python cuts them.
std::vector<std::size_t> slice_positions(std::size_t size, const Value& begin, const Value& end, const Value& step) {
  const auto count = static_cast<std::int64_t>(size);
  const auto bound = [&](const Value& value, std::int64_t absent) {
    if (value.is_none()) {
      return absent;
    }
    const auto number = value.if_integer();
    if (!number) {
      check_defined(value);
      throw Failure("a slice needs integers, not " + value.type_name());
    }
    return *number;
  };
  const std::int64_t stride = bound(step, 1);
  if (stride == 0) {
    throw Failure("the step of a slice is 0");
  }
  const std::int64_t least = stride > 0 ? 0 : -1;
  const std::int64_t most = stride > 0 ? count : count - 1;
  const auto clipped = [&](const Value& value, std::int64_t absent) {
    if (value.is_none()) {
      return absent;
    }
    const std::int64_t number = std::clamp(bound(value, 0), -count - 1, count + 1);
    return std::clamp(number < 0 ? number + count : number, least, most);
  };
  const std::int64_t first = clipped(begin, stride > 0 ? least : most);
  const std::int64_t last = clipped(end, stride > 0 ? most : least);
  std::vector<std::size_t> positions;
  const std::int64_t jump = std::clamp(stride, -count - 1, count + 1);
  for (std::int64_t i = first; stride > 0 ? i < last : i > last; i += jump) {
    positions.push_back(static_cast<std::size_t>(i));
  }
  return positions;
}

}  // namespace

Value method_of(const Value& object, const std::string& name) {
  const std::optional<Value> method = find_method(object, name);
  return method ? *method : no_attribute(object, name);
}

Value attribute_of(const Value& object, const std::string& name) {
  check_defined(object);
  if (const auto loop = object.if_loop()) {
    return loop_attribute(loop, name);
  }
  if (const auto space = object.if_namespace()) {
    const Value* found = space->find(name);
    return found == nullptr ? no_attribute(object, name) : *found;
  }
  if (const auto method = find_method(object, name)) {
    return *method;
  }
  const std::optional<Value> item = find_item(object, Value::text(name));
  return item ? *item : no_attribute(object, name);
}

Value item_of(const Value& object, const Value& key) {
  check_defined(object);
  if (const auto item = find_item(object, key)) {
    return *item;
  }
  if (const std::string* name = key.if_text()) {
    return object.if_dict() || object.if_list() || object.is_text() ? method_of(object, *name)
                                                                    : attribute_of(object, *name);
  }
  return Value::undefined("'" + object.type_name() + "' has no element " + repr(key));
}

Value path_of(Value object, const Value& path, const Value& fallback) {
  if (path.is_none()) {
    return object;
  }
  if (!path.is_text()) {
    return item_of(object, path);
  }
  for (const std::string& part : split(*path.if_text(), ".")) {
    const bool is_index = !part.empty() && part.find_first_not_of("0123456789") == std::string::npos;
    const auto index = is_index ? parse_integer(part) : std::nullopt;
    object = item_of(object, index ? Value::integer(*index) : Value::text(part));
    if (object.is_undefined() && !fallback.is_none()) {
      object = fallback;
    }
  }
  return object;
}

Value slice_of(const Value& object, const Value& begin, const Value& end, const Value& step) {
  check_defined(object);
  if (const std::string* text = object.if_text()) {
    const std::u32string letters = decode(*text);
    std::u32string result;
    for (const std::size_t position : slice_positions(letters.size(), begin, end, step)) {
      result += letters[position];
    }
    return Value::text(encode(result), object.is_markup());
  }
  const auto list = object.if_list();
  if (!list || !has_items(*list)) {
    throw Failure("a " + object.type_name() + " has no slices");
  }
  std::vector<Value> items;
  for (const std::size_t position : slice_positions(list->items.size(), begin, end, step)) {
    items.push_back(list->items[position]);
  }
  if (list->kind == ListKind::kRange) {
    return make_list(std::move(items), ListKind::kRange, "range");
  }
  return make_list(std::move(items), list->kind);
}

}  // namespace diffulex_edge::chat
