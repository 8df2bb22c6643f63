// adapter_config.json of the peft library.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "checkpoint/lora.h"

namespace diffulex_edge {

// Throws Error{kBadFile} for a folder that has none or a broken one, and kUnsupported for an adapter that is not LoRA,
// or whose keys change what it computes in a way that is not read here.
LoraScheme read_adapter_config(const std::filesystem::path& folder, const std::vector<std::string>& ignored_keys);

}  // namespace diffulex_edge
