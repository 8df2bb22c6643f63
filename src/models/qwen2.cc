// Qwen2 and Qwen2.5 (Qwen2ForCausalLM of transformers): biases on q, k and v; causal.

#include "models/architecture.h"

namespace diffulex_edge {
namespace {

ModelConfig read_qwen2(ConfigReader& reader) {
  ModelConfig config = read_transformers_config(reader, 32);
  config.head_dim = reader.size("head_dim").value_or(config.head_dim);
  config.qkv_bias = true;  // fixed in the model's code
  config.block_length = 1;
  reader.ignore({"attention_bias", "mlp_bias"});
  return config;
}

}  // namespace

Architecture qwen2() {
  return {.family = "qwen2",
          .model_type = "qwen2",
          .architecture = "Qwen2ForCausalLM",
          .is_causal = true,
          .read_config = read_qwen2,
          .build = build_transformers_decoder};
}

}  // namespace diffulex_edge
