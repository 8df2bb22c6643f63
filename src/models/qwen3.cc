// Qwen3 (Qwen3ForCausalLM of transformers): RMS norms on query and key heads, a head_dim of its own; causal.

#include "models/architecture.h"

namespace diffulex_edge {
namespace {

ModelConfig read_config(ConfigReader& reader) {
  ModelConfig config = read_transformers_config(reader, 32);
  config.head_dim = reader.size("head_dim").value_or(128);
  config.qkv_bias = reader.boolean("attention_bias").value_or(false);
  config.attention_output_bias = config.qkv_bias;
  config.qk_norm = true;
  config.block_length = 1;
  reader.ignore({"mlp_bias"});
  return config;
}

}  // namespace

Architecture qwen3() {
  return {.family = "qwen3",
          .model_type = "qwen3",
          .architecture = "Qwen3ForCausalLM",
          .read_config = read_config,
          .names = transformers_names};
}

}  // namespace diffulex_edge
