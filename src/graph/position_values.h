// Values of a graph that depend on positions only, such as rotary tables: a backend can store them instead of
// computing them at run time.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "diffulex_edge/graph.h"

namespace diffulex_edge {

class PositionValues {
 public:
  // Computes, in float32, every value of `graph` that has no other source than positions and constants, for sequences
  // of `length` tokens. kBlockCausalMask is left as it is: it is quadratic in the length.
  PositionValues(const Graph& graph, std::int64_t length);

  // Row-major, in the value's shape with `length` for its sequence dimension; nullptr for a value with other sources.
  const std::vector<float>* find(ValueId value) const {
    const auto& found = values_.at(static_cast<std::size_t>(value));
    return found ? &*found : nullptr;
  }

  // Whether `find(value)`, cut along each sequence dimension, is the value for a shorter sequence. It is not where
  // elements of several positions were mixed: [4, seq] reshaped to [seq, 4].
  bool can_be_cut(ValueId value) const { return can_be_cut_.at(static_cast<std::size_t>(value)); }

 private:
  std::vector<std::optional<std::vector<float>>> values_;
  std::vector<bool> can_be_cut_;
};

}  // namespace diffulex_edge
