#include "chat/sorting.h"

#include <algorithm>
#include <iterator>
#include <numeric>

namespace diffulex_edge::chat {

std::vector<std::size_t> sorted_positions(std::size_t count,
                                          const std::function<bool(std::size_t, std::size_t)>& before) {
  std::vector<std::size_t> positions(count);
  std::iota(positions.begin(), positions.end(), std::size_t{0});
  for (std::size_t width = 1; width < count; width *= 2) {
    std::vector<std::size_t> merged;
    merged.reserve(count);
    for (std::size_t begin = 0; begin < count; begin += 2 * width) {
      const auto at = [&](std::size_t offset) {
        return positions.begin() + static_cast<std::ptrdiff_t>(std::min(begin + offset, count));
      };
      std::merge(at(0), at(width), at(width), at(2 * width), std::back_inserter(merged), std::cref(before));
    }
    positions = std::move(merged);
  }
  return positions;
}

}  // namespace diffulex_edge::chat
