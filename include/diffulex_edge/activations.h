// What calibration finds of a model's activations.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

namespace diffulex_edge {

// The values that a static activation is expected to take; 0 is always among them. Finite, min <= max.
struct ActivationRange {
  float min = 0.0F;
  float max = 0.0F;

  friend bool operator==(const ActivationRange&, const ActivationRange&) = default;
};

// Of one linear layer.
struct LayerActivations {
  ActivationRange input;
  ActivationRange output;  // bias included

  friend bool operator==(const LayerActivations&, const LayerActivations&) = default;
};

// Of the values of a model's graph, by ValueId: for devices that compute in integers from end to end.
struct GraphActivations {
  std::vector<ActivationRange> values;             // {0, 0} for sources
  std::map<std::int32_t, ActivationRange> scores;  // of each kAttention: scale * q k^T of the pairs that see each other

  friend bool operator==(const GraphActivations&, const GraphActivations&) = default;
};

}  // namespace diffulex_edge
