// What stands behind a dot or in brackets.
#pragma once

#include <string>

#include "chat/value.h"

namespace diffulex_edge::chat {

// object.name: a method, else an item. Undefined where there is none; throws Failure where `object` is undefined.
Value attribute_of(const Value& object, const std::string& name);
// object[key]: an item, else a method.
Value item_of(const Value& object, const Value& key);
// "a.b.0": items of items, as the arguments `attribute` of filters name them.
// Where an item is undefined, `fallback` takes its place, unless that is none.
Value path_of(Value object, const Value& path, const Value& fallback = Value::none());
// object[begin:end:step]; undefined stands for an absent bound.
Value slice_of(const Value& object, const Value& begin, const Value& end, const Value& step);

// The method `name` of the object's type, bound to it; undefined without a message where there is none.
Value method_of(const Value& object, const std::string& name);

}  // namespace diffulex_edge::chat
