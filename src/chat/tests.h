// Jinja's tests: `value is NAME(...)`.
#pragma once

#include <string>
#include <string_view>

#include "chat/value.h"

namespace diffulex_edge::chat {

bool is_test(std::string_view name);
bool apply_test(const std::string& name, const Value& value, const Arguments& arguments);

}  // namespace diffulex_edge::chat
