// What would be refused after calibration or measurements, found before them: plans are made with findings that are
// made up. Reads no weights.
#pragma once

#include <vector>

#include "diffulex_edge/calibration.h"
#include "diffulex_edge/mixed_precision.h"
#include "diffulex_edge/model.h"
#include "diffulex_edge/quantization.h"
#include "diffulex_edge/quantization_session.h"

namespace diffulex_edge {

// `known`, and made-up ranges for what mode STATIC may need on the target and nobody knows.
CalibrationFindings made_up_findings(const Model& model, const QuantizationConfig& config,
                                     const TargetArithmetic& target, const CalibrationFindings& known = {});

// Error{kInvalidArgument} for what these can't be.
void check_percentile(double percentile);
void check_mask_weight(double weight);

// Throws what calibrate_model(), quantize_model() after it, or the checkpoint that rounding writes would refuse.
void check_before_calibration(const Model& model, const QuantizationRequest& request);

// What measure_sensitivity() measures, with effects of 0. Errors as there.
std::vector<LayerSensitivity> unmeasured_layers(const Model& model, const QuantizationConfig& config,
                                                const std::vector<LayerFormat>& formats,
                                                const TargetArithmetic& target = {});

}  // namespace diffulex_edge
