#include "diffulex_edge/quantization_session.h"

#include <string>
#include <utility>

#include "core/temporary_place.h"
#include "diffulex_edge/error.h"
#include "quant/planner.h"
#include "quant/quantized_checkpoint.h"
#include "runtime/calibrate.h"
#include "runtime/preflight.h"

namespace diffulex_edge {
namespace {

// The same for every method: predicting needs no data for it.
QuantizationRequest without_rounding(QuantizationRequest request) {
  request.config.method = RoundingMethod::RTN;
  return request;
}

bool needs_data(const Model& model, const QuantizationRequest& request) {
  return needs_calibration(model, request.config, request.target, request.known);
}

bool can_use_data(const Model& model, const QuantizationRequest& request) {
  return can_use_calibration(model, request.config, request.target, request.known);
}

void check_data(const Model& model, const QuantizationRequest& request) {
  const bool has_data = request.has_data();
  const QuantizationConfig& config = request.config;
  if (!has_data && needs_data(model, request.dry_run ? without_rounding(request) : request)) {
    const bool is_static = config.mode == QuantizationMode::STATIC;
    if (is_static && !with_stored_ranges(request.known, model).layers.empty()) {
      quantize_model(model, config, request.known, request.target);  // names the layer whose range is missing
    }
    throw Error(ErrorCode::kInvalidArgument,
                is_static ? "mode static" : "method " + std::string(to_string(config.method)), "needs calibration data",
                "give text or token ids with --calibration FILE, or --calibration self");
  }
  if (has_data && !can_use_data(model, request)) {
    throw Error(ErrorCode::kInvalidArgument, "--calibration", "nothing here needs it",
                "leave it out, or ask for --mode static with INT8, or for --method gptq, awq, auto or mse");
  }
}

}  // namespace

struct QuantizationSession::State {
  Model original;
  ModelOptions options;
  QuantizationRequest request;
  RoundedCopy copy;
  Workspace workspace;
  std::optional<CalibratedModel> calibrated;

  const CalibratedModel& result() const {
    if (!calibrated) {
      throw Error(ErrorCode::kInternal, "quantization session", "was not calibrated");
    }
    return *calibrated;
  }
};

QuantizationSession::QuantizationSession(Model model, ModelOptions options, QuantizationRequest request,
                                         const RoundedCopy& copy)
    : state_(new State{.original = std::move(model),
                       .options = std::move(options),
                       .request = std::move(request),
                       .copy = copy,
                       .workspace = Workspace(copy.beside),
                       .calibrated = {}}) {
  const State& state = *state_;
  check_before_calibration(state.original, state.request);
  check_data(state.original, state.request);
  if (!state.copy.folder.empty()) {
    const QuantizationRequest& wanted = state.request;
    check_storable(quantize_model(state.original, wanted.config, made_up_findings(), wanted.target).plan);
  }
}

QuantizationSession::~QuantizationSession() = default;
QuantizationSession::QuantizationSession(QuantizationSession&&) noexcept = default;
QuantizationSession& QuantizationSession::operator=(QuantizationSession&&) noexcept = default;

const Model& QuantizationSession::original() const { return state_->original; }
const QuantizationRequest& QuantizationSession::request() const { return state_->request; }

bool QuantizationSession::can_use_calibration() const { return can_use_data(state_->original, state_->request); }

CalibrationFindings QuantizationSession::made_up_findings() const {
  const QuantizationRequest& request = state_->request;
  return diffulex_edge::made_up_findings(state_->original, request.config, request.target, request.known);
}

void QuantizationSession::calibrate(const RunControl& control) {
  State& state = *state_;
  const QuantizationRequest wanted = state.request.dry_run ? without_rounding(state.request) : state.request;
  const CalibrationOptions& options = wanted.calibration;
  const bool is_file = !wanted.data && !options.data.empty() && options.data != kOwnTokens;
  if (wanted.dry_run && is_file && !can_use_data(state.original, wanted)) {
    load_calibration_data(state.original, options, control);  // what is wrong with it would end a real run
  }
  const auto folder = [&] { return state.copy.folder.empty() ? state.workspace.folder() : state.copy.folder; };
  state.calibrated = calibrate_model(state.original, state.options, wanted, folder, control);
}

const Model& QuantizationSession::model() const {
  const std::optional<Model>& rounded = state_->result().rounded;
  return rounded ? *rounded : state_->original;
}
const CalibrationFindings& QuantizationSession::findings() const { return state_->result().findings; }
const std::optional<CalibrationResult>& QuantizationSession::calibration() const {
  return state_->result().calibration;
}

QuantizationResult QuantizationSession::quantize() const {
  return quantize_model(model(), state_->request.config, findings(), state_->request.target);
}

}  // namespace diffulex_edge
