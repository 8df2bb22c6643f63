// Text from files, made safe to show: a terminal or a page must not obey it, and it is valid UTF-8.
#pragma once

#include <cstddef>
#include <limits>
#include <string>
#include <string_view>

namespace diffulex_edge {

// Bytes that are not UTF-8 become \xF0, control characters \x1B, and characters that end lines or turn the direction of
// writing (U+2028, U+202E, ...) \u202E; everything else stays. Where more than `most` bytes would be read, "..." stands
// for the rest.
std::string printable(std::string_view text, std::size_t most = std::numeric_limits<std::size_t>::max());

// The same for text of several lines: line ends stay.
std::string printable_lines(std::string_view text);

}  // namespace diffulex_edge
