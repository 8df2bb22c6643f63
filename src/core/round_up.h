// Sizes and places in steps.
#pragma once

#include <cstdint>

namespace diffulex_edge {

// The least multiple of `step` that is at least `value`. Neither is negative, and `step` is not 0.
constexpr std::int64_t round_up(std::int64_t value, std::int64_t step) { return (value + step - 1) / step * step; }

}  // namespace diffulex_edge
