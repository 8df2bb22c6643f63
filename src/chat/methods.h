// Methods of Python's texts, lists and dicts.
#pragma once

#include <optional>
#include <string>

#include "chat/value.h"

namespace diffulex_edge::chat {

// The method of the object's type, bound to it; none where the type has no method of this name. Throws Failure for a
// method that Python has and this room hasn't.
std::optional<Value> find_text_method(const Value& text, const std::string& name);
std::optional<Value> find_list_method(const Value& list, const std::string& name);
std::optional<Value> find_dict_method(const Value& dict, const std::string& name);

}  // namespace diffulex_edge::chat
