// One export, whoever asks for it: checked whole, calibrated, rounded, lowered, written.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "diffulex_edge/activations.h"
#include "diffulex_edge/backend.h"
#include "diffulex_edge/calibration.h"
#include "diffulex_edge/model.h"
#include "diffulex_edge/progress.h"

namespace diffulex_edge {

struct ExportRequest {
  std::string backend = "xnnpack";
  BackendConfig config;
  CalibrationOptions calibration;       // without data where there is none
  std::optional<CalibrationData> data;  // what was loaded already, as a module's is, in place of calibration.data
  CalibrationFindings known;            // what needs no calibration
  std::filesystem::path output;         // the artefact, or the folder of a bundle
  bool is_bundle = false;               // with the tokenizer and what a program that writes text has to know
  std::optional<double> max_memory_mb;  // MB (10^6 bytes) that the stored weights may take
  // Predicts the metadata: reads no weights, but runs what calibration needs; writes nothing.
  bool dry_run = false;
};

class ExportSession {
 public:
  // Creates the backend, and refuses before any work what would be refused after it: options, the output's name, plans
  // and lowering with findings that are made up. Reads no weights. `options` are those that `model` was loaded with.
  // Errors: kUnsupported for an unknown backend or weights of more than max_memory_mb, those of the backend, those of
  // QuantizationSession, and of a bundle: a model without tokenizer or mask token.
  ExportSession(Model model, ModelOptions options, ExportRequest request);
  ~ExportSession();  // removes a rounded copy of the model
  ExportSession(ExportSession&&) noexcept;
  ExportSession& operator=(ExportSession&&) noexcept;
  ExportSession(const ExportSession&) = delete;
  ExportSession& operator=(const ExportSession&) = delete;

  // Calibrates, rounds, lowers and writes, or predicts. Failures come back in the result, and the output is then as it
  // was before. Throws only what control.on_progress throws, unchanged.
  ExportResult run(const RunControl& control = {});

  // What reports describe: the model as given, the config as the backend reads it, and, after run(), what calibration
  // found, where there was one.
  const Model& model() const;
  const BackendConfig& config() const;
  const std::optional<CalibrationResult>& calibration() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace diffulex_edge
