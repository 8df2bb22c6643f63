// From a request to a model that can be planned and executed: checked whole, then calibrated and rounded.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>

#include "diffulex_edge/activations.h"
#include "diffulex_edge/calibration.h"
#include "diffulex_edge/model.h"
#include "diffulex_edge/progress.h"
#include "diffulex_edge/quantization.h"

namespace diffulex_edge {

// What is asked of a model's quantization.
struct QuantizationRequest {
  QuantizationConfig config;
  TargetArithmetic target;
  CalibrationOptions calibration;       // without data where there is none
  std::optional<CalibrationData> data;  // what was loaded already, as a module's is, in place of calibration.data
  CalibrationFindings known;            // what needs no calibration
  bool dry_run = false;                 // weights are not rounded, and need no data for it

  bool has_data() const { return data ? !data->inputs.empty() || !data->runs.empty() : !calibration.data.empty(); }
};

// Where calibrated rounding writes its copy of a model.
struct RoundedCopy {
  std::filesystem::path folder = {};  // it stays: new, or empty; without one, a temporary folder of the session
  std::filesystem::path beside = {};  // the output that a temporary folder is made beside; empty: in $TMPDIR, /var/tmp
};

class QuantizationSession {
 public:
  // Checks all of the request with findings that are made up, and reads no weights. `options` are those that `model`
  // was loaded with. Errors: kInvalidArgument for options that can't be, for data that is missing or that nothing
  // needs; those of quantize_model(); with copy.folder, those of write_quantized_checkpoint for a plan that can't be
  // stored.
  QuantizationSession(Model model, ModelOptions options, QuantizationRequest request, const RoundedCopy& copy = {});
  ~QuantizationSession();  // removes a temporary copy
  QuantizationSession(QuantizationSession&&) noexcept;
  QuantizationSession& operator=(QuantizationSession&&) noexcept;
  QuantizationSession(const QuantizationSession&) = delete;
  QuantizationSession& operator=(const QuantizationSession&) = delete;

  const Model& original() const;
  const QuantizationRequest& request() const;
  // Whether data changes anything.
  bool can_use_calibration() const;
  // What the plan is checked with before calibration: made-up ranges in the places of those that are not known.
  CalibrationFindings made_up_findings() const;

  // Calibrates and rounds, as the request asks. Errors: those of calibrate_model().
  void calibrate(const RunControl& control = {});

  // After calibrate():
  const Model& model() const;  // the one given, or its rounded copy
  const CalibrationFindings& findings() const;
  const std::optional<CalibrationResult>& calibration() const;
  QuantizationResult quantize() const;  // quantize_model() of these

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace diffulex_edge
