// Core ML packages (.mlpackage). See docs/FORMATS.md.
#pragma once

#include <filesystem>
#include <string_view>

#include "diffulex_edge/backend.h"

namespace diffulex_edge {

// Activations flow in FP16 unless the config's dtype is FP32 or activation_dtype says FP32.
class CoreMLBackend final : public EdgeBackend {
 public:
  explicit CoreMLBackend(BackendConfig config = {});
  QuantizationConfig quantization() const override;
  TargetArithmetic arithmetic() const override;
  void check_config() const override;
  void check_target(const std::filesystem::path& target) const override;
  std::string_view name() const override { return "coreml"; }

 protected:
  ExportMetadata run(const Model& model, const CalibrationFindings& findings, const std::filesystem::path* target,
                     const RunControl& control) override;
};

}  // namespace diffulex_edge
