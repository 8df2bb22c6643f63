#include "runtime/preflight.h"

#include <cmath>
#include <string>

#include "diffulex_edge/error.h"
#include "diffulex_edge/quantization_session.h"
#include "quant/arithmetic.h"
#include "quant/planner.h"
#include "quant/quantized_checkpoint.h"

namespace diffulex_edge {
namespace {

constexpr ActivationRange kMadeUp{.min = -1.0F, .max = 1.0F};

GraphActivations made_up_values(const Graph& graph) {
  GraphActivations activations;
  activations.values.assign(graph.nodes().size(), kMadeUp);
  for (std::size_t i = 0; i < graph.nodes().size(); ++i) {
    if (graph.nodes()[i].op == Op::kAttention) {
      activations.scores[static_cast<ValueId>(i)] = kMadeUp;
    }
  }
  return activations;
}

bool writes_rounded(const Model& model, const QuantizationRequest& request) {
  const QuantizationConfig& config = request.config;
  if (model.stored_quantization) {
    return false;
  }
  switch (config.method) {
    case RoundingMethod::GPTQ:
    case RoundingMethod::AWQ:
    case RoundingMethod::AUTO:
      return true;
    case RoundingMethod::MSE:
      return request.has_data();
    default:
      return false;
  }
}

}  // namespace

CalibrationFindings made_up_findings(const Model& model, const QuantizationConfig& config,
                                     const TargetArithmetic& target, const CalibrationFindings& known) {
  CalibrationFindings findings = with_stored_ranges(known, model);
  if (config.mode != QuantizationMode::STATIC) {
    return findings;
  }
  for (const Node& node : model.graph.nodes()) {
    if (node.op == Op::kLinear) {
      findings.layers.try_emplace(node.name, LayerActivations{.input = kMadeUp, .output = kMadeUp});
    }
  }
  if (is_static_everywhere(config, target) && !findings.graph) {
    findings.graph = made_up_values(model.graph);
  }
  return findings;
}

void check_percentile(double percentile) {
  const bool is_share = percentile > 50.0 && percentile <= 100.0;  // false for NaN
  if (!is_share) {
    throw Error(ErrorCode::kInvalidArgument, "percentile", std::to_string(percentile) + " is not in (50, 100]");
  }
}

void check_mask_weight(double weight) {
  if (!(weight > 0.0) || !std::isfinite(weight)) {
    throw Error(ErrorCode::kInvalidArgument, "mask weight", std::to_string(weight) + " is not a positive number");
  }
}

void check_before_calibration(const Model& model, const QuantizationRequest& request) {
  const CalibrationOptions& options = request.calibration;
  check_percentile(options.percentile);
  check_mask_weight(options.mask_weight);
  const CalibrationFindings findings = made_up_findings(model, request.config, request.target, request.known);
  const QuantizationPlan plan = quantize_model(model, request.config, findings, request.target).plan;
  if (writes_rounded(model, request)) {
    check_storable(plan);
  }
}

}  // namespace diffulex_edge
