// Everything that config.json says, for load_model.
#pragma once

#include <filesystem>
#include <optional>

#include "checkpoint/prequantized/scheme.h"
#include "diffulex_edge/model.h"
#include "models/architecture.h"

namespace diffulex_edge {

struct ParsedConfig {
  const Architecture* architecture = nullptr;
  ModelConfig config;
  std::optional<StoredQuantization> quantization;  // by this program
  std::optional<PrequantizedScheme> prequantized;  // by another one
};

// Of a folder as find_model_folder gives it.
ParsedConfig parse_config(const std::filesystem::path& folder, const ModelOptions& options);

}  // namespace diffulex_edge
