// ExecuTorch programs (.pte) with one XNNPACK delegate call. See docs/FORMATS.md.
#pragma once

#include <filesystem>
#include <string_view>

#include "diffulex_edge/backend.h"

namespace diffulex_edge {

class XNNPACKBackend final : public EdgeBackend {
 public:
  explicit XNNPACKBackend(BackendConfig config = {});
  TargetArithmetic arithmetic() const override;
  void check_config() const override;
  void check_target(const std::filesystem::path& target) const override;
  std::string_view name() const override { return "xnnpack"; }

 protected:
  ExportMetadata run(const Model& model, const CalibrationFindings& findings, const std::filesystem::path* target,
                     const RunControl& control) override;
};

}  // namespace diffulex_edge
