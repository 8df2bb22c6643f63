// Decides the format of every weight of a model.
#pragma once

#include "diffulex_edge/quantization.h"

namespace diffulex_edge {

// Walks the graph: linear layers and the embedding take formats as `config` says; norms and biases stay FP32.
QuantizationResult make_plan(const Model& model, const QuantizationConfig& config);

}  // namespace diffulex_edge
