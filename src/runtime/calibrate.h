// Calibration and rounding as steps; QuantizationSession takes them in order.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>

#include "diffulex_edge/calibration.h"
#include "diffulex_edge/model.h"
#include "diffulex_edge/progress.h"
#include "diffulex_edge/quantization.h"
#include "diffulex_edge/quantization_session.h"

namespace diffulex_edge {

// True for mode static and for the methods gptq, awq and auto, unless the checkpoint or `known` has their result
// already. Errors: those of quantize_model(), but for missing ranges.
bool needs_calibration(const Model& model, const QuantizationConfig& config, const TargetArithmetic& target = {},
                       const CalibrationFindings& known = {});
// True also for method mse and for palettes, which weigh their errors where they have data.
bool can_use_calibration(const Model& model, const QuantizationConfig& config, const TargetArithmetic& target = {},
                         const CalibrationFindings& known = {});

// Runs the data through the float32 model and finds every linear layer's activations; where a format has palettes, the
// importance of its inputs; where every value is an integer on the target, the ranges of all values. Memory:
// activations of all tokens, one tile of weights for each thread.
CalibrationResult calibrate_activations(const Model& model, const QuantizationConfig& config,
                                        const TargetArithmetic& target, const CalibrationData& data,
                                        const CalibrationOptions& options, const RunControl& control = {});

// Rounds the weights that `plan` makes integers of with the method of its config, layer by layer, each seeing what the
// rounded layers before it make, and writes the quantized checkpoint `folder` (as write_quantized_checkpoint). Layers
// of one input are scaled by AWQ where that helps. Memory: activations of all tokens, one layer's weight several times
// over, 16 bytes * columns^2.
CalibrationResult round_with_calibration(const Model& model, const QuantizationPlan& plan, const CalibrationData& data,
                                         const CalibrationOptions& options, const std::filesystem::path& folder,
                                         const RunControl& control = {});

// A model with what its config asks of calibration done. The config holds for the rounded copy, too: what was rounded
// keeps its integers. Of a module, the rounded copy is its graph with the workspace's weights.
struct CalibratedModel {
  std::optional<Model> rounded;  // the copy that stands for the one given, if there is one
  CalibrationFindings findings;  // those given, and what `calibration` found beside them
  std::optional<CalibrationResult> calibration;
};

// Does what needs_calibration() says, and what can_use_calibration() says where there is data. Writes the rounded copy
// to a folder that `workspace` names when it is needed: a new or empty one, which the caller removes when done with the
// model. `model_options` are those that `model` was loaded with. Errors: kInvalidArgument where data is needed and
// missing.
CalibratedModel calibrate_model(const Model& model, const ModelOptions& model_options,
                                const QuantizationRequest& request,
                                const std::function<std::filesystem::path()>& workspace,
                                const RunControl& control = {});

}  // namespace diffulex_edge
