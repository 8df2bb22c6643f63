// A GGUF file's keys as the config.json of its family.
#pragma once

#include <nlohmann/json.hpp>

#include "model_files/gguf_file.h"

namespace diffulex_edge {

// Architectures llama, qwen2, qwen3, dream and llada. Keys of the architecture that are not known here become keys of
// config.json under their own names, so that its reader refuses them as it does its own. Throws Error{kUnsupported} for
// another architecture or rotary frequencies that no rule gives, and Error{kBadFile} for keys that are absent or
// broken.
nlohmann::json gguf_config(const GgufFile& file);

}  // namespace diffulex_edge
