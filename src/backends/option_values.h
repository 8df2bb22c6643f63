// Values of BackendConfig::backend_options.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace diffulex_edge {

// Throws Error{kInvalidArgument} naming the option where `text` is not a whole number of at least `least`.
std::int64_t parse_count(const std::string& option, const std::string& text, std::int64_t least);

// Whether `text` is the second of two possible values; Error{kInvalidArgument} where it is neither.
bool parse_choice(const std::string& option, const std::string& text, std::string_view first, std::string_view second);

}  // namespace diffulex_edge
