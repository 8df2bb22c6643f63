// Folders for Qualcomm's NPUs: an ONNX model and context binaries. See docs/FORMATS.md.
#pragma once

#include <filesystem>
#include <string_view>

#include "diffulex_edge/backend.h"

namespace diffulex_edge {

// Folders with an ONNX model (model.onnx, model.onnx.data), a manifest.json and, in mode static, encodings.json; for
// each SoC asked for a folder with a context binary for its NPU, if the vendor's compiler is at hand: the Python
// package onnxruntime-qnn. In mode static every activation is an integer of 16 bits, or 8 with activation_dtype INT8.
class QNNBackend final : public EdgeBackend {
 public:
  explicit QNNBackend(BackendConfig config = {});
  TargetArithmetic arithmetic() const override;
  void check_config() const override;
  void check_target(const std::filesystem::path& target) const override;
  std::string_view name() const override { return "qnn"; }

 protected:
  ExportMetadata run(const Model& model, const CalibrationFindings& findings, const std::filesystem::path* target,
                     const RunControl& control) override;
};

}  // namespace diffulex_edge
