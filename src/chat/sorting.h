// A sort that bears any order: values need not be comparable, and a NaN is neither less nor greater.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

namespace diffulex_edge::chat {

// The numbers below `count`, stably sorted by `before`.
std::vector<std::size_t> sorted_positions(std::size_t count,
                                          const std::function<bool(std::size_t, std::size_t)>& before);

}  // namespace diffulex_edge::chat
