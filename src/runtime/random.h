// Random numbers that are the same everywhere: the standard's distributions are not.
#pragma once

#include <cstdint>
#include <random>
#include <utility>
#include <vector>

namespace diffulex_edge {

class Random {
 public:
  explicit Random(std::uint64_t seed) : generator_(seed) {}

  double uniform() { return static_cast<double>(generator_() >> 11U) * 0x1p-53; }  // in [0, 1)
  // In [0, count).
  std::size_t below(std::size_t count) { return static_cast<std::size_t>(uniform() * static_cast<double>(count)); }

  // The first `count` of a random order of 0, ..., size-1.
  std::vector<std::size_t> sample(std::size_t size, std::size_t count) {
    std::vector<std::size_t> order(size);
    for (std::size_t i = 0; i < size; ++i) {
      order[i] = i;
    }
    for (std::size_t i = 0; i < count; ++i) {
      std::swap(order[i], order[i + below(size - i)]);
    }
    order.resize(count);
    return order;
  }

 private:
  std::mt19937_64 generator_;
};

}  // namespace diffulex_edge
