// A GGUF file's keys as the config.json of its family.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

#include "model_files/gguf_file.h"

namespace diffulex_edge {

// Architectures llama, qwen2, qwen3, qwen3moe, dream, llada, llada-moe and rnd1; those of a causal model whose file
// says that it is not causal are A2D's. Keys of the architecture that are not known here become keys of config.json
// under their own names, so that its reader refuses them as it does its own. Throws Error{kUnsupported} for another
// architecture or rotary frequencies that no rule gives, and Error{kBadFile} for keys that are absent or broken.
nlohmann::json gguf_config(const GgufFile& file);

// Llama 3's rule: what each of the head_dim / 2 rotary frequencies is divided by, as GGUF has it in place of the rule.
struct Llama3Rule {
  double theta = 0.0;
  std::int64_t head_dim = 0;
  double factor = 1.0;
  double low_frequency = 1.0;
  double high_frequency = 4.0;
  double positions = 0.0;  // that the model was first trained for
};
std::vector<double> llama3_factors(const Llama3Rule& rule);

}  // namespace diffulex_edge
