// Everything that config.json says, for the builder.
#pragma once

#include <filesystem>
#include <optional>

#include "diffulex_edge/model.h"
#include "models/architecture.h"

namespace diffulex_edge {

struct ParsedConfig {
  ModelConfig config;
  DecoderNames names;
  std::optional<StoredQuantization> quantization;
};

ParsedConfig parse_config(const std::filesystem::path& folder, const ModelOptions& options);

}  // namespace diffulex_edge
