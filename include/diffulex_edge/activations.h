// What calibration finds of a model's activations. It passes beside what the user asked for, and never into it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
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

// All that calibration found, or that a caller knows without it. Names are layers' canonical ones ("layers.3.q_proj").
struct CalibrationFindings {
  // Mode STATIC: every linear layer whose activations are integers needs an entry; others are not looked at.
  std::map<std::string, LayerActivations, std::less<>> layers;
  // Mode STATIC on a target where every value of the graph is an integer.
  std::optional<GraphActivations> graph;
  // Palettes: the mean square of each column of a layer's input. Weighs the squared errors of k-means; where there is
  // no entry, all columns are alike.
  std::map<std::string, std::vector<float>, std::less<>> input_importance;
};

}  // namespace diffulex_edge
