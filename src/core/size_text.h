// Sizes as people write them.
#pragma once

#include <cstdint>
#include <string>

namespace diffulex_edge {

// "120MB" (10^6 bytes), "1.5 GiB", "81920" (bytes). Throws Error{kInvalidArgument} naming `option` for anything else,
// and for sizes below one byte.
std::int64_t parse_size(const std::string& option, const std::string& text);

}  // namespace diffulex_edge
