// JSON as a template's values: objects keep the order of their keys.
#pragma once

#include <string>
#include <string_view>

#include "chat/value.h"

namespace diffulex_edge::chat {

// Throws Error{kInvalidArgument} that begins with `name`: not JSON, not UTF-8, nested too deep, a key twice in an
// object, too large, or an integer of more than 64 bits.
Value parse_json_value(std::string_view json, const std::string& name);

}  // namespace diffulex_edge::chat
