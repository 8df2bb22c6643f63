// Decides the format of every weight of a model.
#pragma once

#include "diffulex_edge/quantization.h"

namespace diffulex_edge {

// Walks the graph: linear layers and the embedding take formats as `config` says, and compute with what `target` has
// for them; norms and biases stay FP32.
QuantizationResult make_plan(const Model& model, const QuantizationConfig& config, const CalibrationFindings& findings,
                             const TargetArithmetic& target);

// `findings`, with the ranges of layers that the checkpoint brings with it where there are none.
CalibrationFindings with_stored_ranges(CalibrationFindings findings, const Model& model);

}  // namespace diffulex_edge
