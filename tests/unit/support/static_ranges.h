// Ranges of activations as calibration would give them.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "diffulex_edge/quantization.h"

namespace diffulex_edge::testing {

using Activations = std::map<std::string, LayerActivations, std::less<>>;

// For every linear layer of a decoder with `layers` layers, the head included. Wide enough that small random models
// leave none of it.
inline Activations wide_activations(int layers = 2) {
  const LayerActivations wide = {.input = {.min = -30.5F, .max = 41.0F}, .output = {.min = -60.0F, .max = 50.0F}};
  Activations result = {{"lm_head", wide}};
  for (int layer = 0; layer < layers; ++layer) {
    for (const char* name : {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}) {
      result["layers." + std::to_string(layer) + "." + name] = wide;
    }
  }
  return result;
}

inline CalibrationFindings wide_findings(int layers = 2) {
  return {.layers = wide_activations(layers), .graph = {}, .input_importance = {}};
}

}  // namespace diffulex_edge::testing
