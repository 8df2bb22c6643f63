// A module's calibration: inputs that Python gives, and what comes of rounding its weights with them.
#pragma once

#include <nanobind/nanobind.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "diffulex_edge/calibration.h"
#include "diffulex_edge/model.h"
#include "diffulex_edge/quantization.h"
#include "diffulex_edge/quantization_session.h"

namespace diffulex_edge::python {

// Shape, address and number of an input's float32 values.
using InputTuple = std::tuple<std::vector<std::int64_t>, std::uintptr_t, std::size_t>;
// Of each run, the graph's inputs in their order.
using RunTuples = std::vector<std::vector<InputTuple>>;

struct Calibration {
  CalibrationData data;
  CalibrationOptions options;

  bool has_data() const { return !data.runs.empty(); }
};

// Copies the values. Errors: kInvalidArgument for an observer or a percentile that there is not.
Calibration calibration_of(const RunTuples& runs, const std::string& observer, double percentile);

// A module whose weights are rounded, in a temporary folder that goes with this.
class RoundedModule {
 public:
  // Errors: as QuantizationSession.
  RoundedModule(const Model& model, const QuantizationConfig& config, Calibration calibration);

  void run(const RunControl& control) { session_.calibrate(control); }

  // After run().
  // Copies a tensor to memory of just its size.
  void read(const std::string& tensor, std::uintptr_t address, std::size_t bytes) const;
  // A tensor as float32, whatever its type.
  void read_floats(const std::string& tensor, std::uintptr_t address, std::size_t count) const;
  const CalibrationResult& calibration() const { return *session_.calibration(); }

 private:
  QuantizationSession session_;
};

// Sequences, tokens, warnings; by layer the ranges found, and how its weight was rounded.
nanobind::dict describe_calibration(const CalibrationResult& calibration);

void bind_calibration(nanobind::module_& module);

}  // namespace diffulex_edge::python
