// Results as JSON, as text for a terminal, and as an HTML page.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "diffulex_edge/backend.h"
#include "diffulex_edge/calibration.h"
#include "diffulex_edge/evaluation.h"
#include "diffulex_edge/generation_evaluation.h"
#include "diffulex_edge/inspection.h"
#include "diffulex_edge/mixed_precision.h"
#include "diffulex_edge/model.h"
#include "diffulex_edge/model_hash.h"
#include "diffulex_edge/quantization.h"
#include "diffulex_edge/runtime.h"

namespace diffulex_edge {

// Where a report comes from.
struct Provenance {
  std::string command;  // the command line as a shell takes it; empty: not told
  std::optional<ModelHash> model_hash;
};

// What an export was asked for, beside what came of it.
struct ExportReport {
  const Model& model;
  const BackendConfig& config;
  const ExportMetadata& metadata;
  std::string output;                              // path as given
  const CalibrationResult* calibration = nullptr;  // if there was one
  Provenance provenance = {};
};

// The same facts of an export or of a layer have the same names in C++, in JSON and in Python, where they are listed in
// docs/USER_GUIDE.md. One object of all that the metadata hold; the export's own has the request beside it.
std::string to_json(const ExportMetadata& metadata);
std::string to_json(const ExportReport& report);
// Some lines: formats, sizes, warnings. `with_layers` adds a table with a row for each kind of layer.
std::string to_text(const ExportReport& report);
// A self-contained page: sizes, formats, every layer, what calibration saw, warnings, provenance. No times and dates:
// the same inputs give the same bytes.
std::string to_html(const ExportReport& report);

// What `quantize` did.
struct QuantizeReport {
  const Model& model;
  const QuantizationResult& result;
  std::string output;
  std::int64_t file_bytes = 0;
  double seconds = 0.0;
  std::int64_t peak_rss_bytes = 0;
  const CalibrationResult* calibration = nullptr;
};
std::string to_json(const QuantizeReport& report);
std::string to_text(const QuantizeReport& report);

// What `evaluate` found. `plan` is null for a model evaluated as it is, `reference` empty without a comparison, `data`
// where no loss was measured.
struct EvaluationReport {
  const Model& model;
  const QuantizationPlan* plan = nullptr;
  std::string backend = "xnnpack";  // whose activations were simulated
  QuantizedArithmetic arithmetic = QuantizedArithmetic::SIMULATED;
  const EvaluationResult& result;
  std::string data;
  std::string reference;
  std::vector<std::string> warnings;
  const CalibrationResult* calibration = nullptr;
  const FormatComparison* formats = nullptr;  // on the same sets
  const GenerationEvaluation* answers = nullptr;
  std::string prompts = {};  // the file of those
  Provenance provenance = {};
};
// Keys as in docs/USER_GUIDE.md; "loss" holds a number for each set's label. What is infinite is null.
std::string to_json(const EvaluationReport& report);
std::string to_text(const EvaluationReport& report);
// A self-contained page: losses, loss against size, each layer's noise and format, what calibration saw, warnings,
// provenance. No times and dates: the same inputs give the same bytes.
std::string to_html(const EvaluationReport& report);

// What `plan` chose, and what it could have chosen.
struct UniformPlan {
  std::string format;  // "int4_g32"
  MixedPrecisionPlan plan;
};
struct PlanReport {
  const Model& model;
  const MixedPrecisionPlan& plan;
  const std::vector<LayerSensitivity>& sensitivity;
  std::string output;
  std::optional<std::int64_t> target_size_bytes;
  std::optional<double> max_loss;            // nats
  std::vector<UniformPlan> uniform;          // every layer in one format
  std::vector<MixedPrecisionPlan> frontier;  // the best plans for some sizes
  double seconds = 0.0;
  std::int64_t peak_rss_bytes = 0;
  Provenance provenance;
};
std::string to_json(const PlanReport& report);
std::string to_text(const PlanReport& report);
// A self-contained page: loss against size of plans and of uniform formats, each layer's sensitivity and format.
std::string to_html(const PlanReport& report);

std::string to_json(const Inspection& inspection);
std::string to_text(const Inspection& inspection);

// The compatibility matrix: every format, by the registered backends, as these answer it.
std::string matrix_json();
std::string matrix_text();

}  // namespace diffulex_edge
