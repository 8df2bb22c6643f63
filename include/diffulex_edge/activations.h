// What calibration finds of a layer's activations.
#pragma once

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

}  // namespace diffulex_edge
