// What each layer of a model costs in each format, measured: what mixed-precision plans are made from.
#pragma once

#include <vector>

#include "diffulex_edge/calibration.h"
#include "diffulex_edge/mixed_precision.h"
#include "diffulex_edge/model.h"
#include "diffulex_edge/progress.h"
#include "diffulex_edge/quantization.h"

namespace diffulex_edge {

// What layers are measured with.
struct SensitivityRequest {
  // Mode, method (RTN, MSE or HQQ), and what is settled: layers of exclude_layers (FP32), embedding_dtype and
  // head_dtype.
  QuantizationConfig config;
  CalibrationFindings findings;  // mode STATIC: of every linear layer, or of the graph's values
  TargetArithmetic target;
};

// Quantizes one layer at a time, runs the states of `data` through the rest in float32 and compares the predictions
// where they count. Formats that a layer can't take (group sizes that do not divide its input; in mode STATIC, groups
// where the target has no kernel for them) are left out.
//
// For linear layers the effect on the predictions is measured in the format that changes the layer's output most; that
// of the others follows from their output errors, as the effect of small errors grows with their square.
//
// Memory: some 128 MiB for each activation that is alive at a time, and 256 MiB of logits. Time: about half a run of
// `data` for each layer.
std::vector<LayerSensitivity> measure_sensitivity(const Model& model, const SensitivityRequest& request,
                                                  const CalibrationData& data, const std::vector<LayerFormat>& formats,
                                                  const RunControl& control = {});

// The effect of a whole plan on the predictions that count: the mean KL(float32 || quantized) in nats a token.
double measure_divergence(const Model& model, const QuantizationPlan& plan, const CalibrationData& data,
                          const RunControl& control = {});

// The smallest artefact that changes the predictions by at most `kl_divergence`, measured with all its layers together:
// plans for less until one holds. `request` has the findings and the target. Errors as for_loss, also where no plan of
// a few tried ones holds.
MixedPrecisionPlan plan_for_measured_loss(const MixedPrecisionPlanner& planner, const Model& model,
                                          const SensitivityRequest& request, const CalibrationData& data,
                                          double kl_divergence, const RunControl& control = {});

}  // namespace diffulex_edge
