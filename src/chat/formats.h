// Texts with places for values: "%s" % value and "{}".format(value), as far as templates use them.
#pragma once

#include <string>
#include <string_view>

#include "chat/value.h"

namespace diffulex_edge::chat {

// `values` is a tuple, or the one value.
std::string percent_format(std::string_view format, const Value& values);
// str.format: {}, {0} and {name}, without format specifications.
std::string brace_format(std::string_view format, const Arguments& arguments);

}  // namespace diffulex_edge::chat
