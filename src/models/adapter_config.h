// adapter_config.json of the peft library.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "checkpoint/lora.h"
#include "diffulex_edge/checkpoint.h"
#include "diffulex_edge/model.h"

namespace diffulex_edge {

// Throws Error{kBadFile} for a folder that has none or a broken one, and kUnsupported for an adapter that is not LoRA,
// or whose keys change what it computes in a way that is not read here.
LoraScheme read_adapter_config(const std::filesystem::path& folder, const std::vector<std::string>& ignored_keys);

// Adds the adapter of a folder to a model's weights. Errors: those of read_adapter_config, find_adapter_weights and
// merge_lora.
MergedLora merge_adapter(Checkpoint& checkpoint, const std::filesystem::path& folder, const ModelConfig& config,
                         const std::vector<std::string>& ignored_keys);

}  // namespace diffulex_edge
