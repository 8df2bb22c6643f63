// Numbers as people write them.
#pragma once

#include <optional>
#include <string_view>

namespace diffulex_edge {

// The last number in a text: digits, perhaps with commas between them, a fraction, an exponent, and a sign before them
// that no digit or letter is before. "1,234.50" is 1234.5, "3-4" ends with 4.
std::optional<double> last_number(std::string_view text);

}  // namespace diffulex_edge
