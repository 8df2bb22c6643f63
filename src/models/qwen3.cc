// Qwen3 (Qwen3ForCausalLM of transformers): RMS norms on query and key heads, a head_dim of its own; causal.

#include "models/architecture.h"

namespace diffulex_edge {
namespace {

ModelConfig read_dense_qwen3(ConfigReader& reader) {
  ModelConfig config = read_qwen3_config(reader);
  config.block_length = 1;
  reader.ignore({"mlp_bias"});
  return config;
}

}  // namespace

Architecture qwen3() {
  return {.family = "qwen3",
          .model_type = "qwen3",
          .architecture = "Qwen3ForCausalLM",
          .is_causal = true,
          .read_config = read_dense_qwen3,
          .build = build_transformers_decoder};
}

}  // namespace diffulex_edge
