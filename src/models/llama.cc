// Llama (LlamaForCausalLM of transformers): causal, that is block-causal with blocks of one token.

#include "models/architecture.h"

namespace diffulex_edge {
namespace {

ModelConfig read_llama(ConfigReader& reader) {
  ModelConfig config = read_transformers_config(reader, 0);
  config.head_dim = reader.size("head_dim").value_or(config.head_dim);
  config.qkv_bias = reader.boolean("attention_bias").value_or(false);
  config.attention_output_bias = config.qkv_bias;
  config.mlp_bias = reader.boolean("mlp_bias").value_or(false);
  config.block_length = 1;
  return config;
}

}  // namespace

Architecture llama() {
  return {.family = "llama",
          .model_type = "llama",
          .architecture = "LlamaForCausalLM",
          .is_causal = true,
          .read_config = read_llama,
          .build = build_transformers_decoder};
}

}  // namespace diffulex_edge
