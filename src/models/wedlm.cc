// WeDLM (WeDLMForCausalLM, tencent/WeDLM-*): Qwen2.5's or Qwen3's arithmetic, by two keys, and a causal mask. Its own
// decoder puts masked tokens behind all others, at the positions that they will have; here it writes token by token.

#include "models/architecture.h"

namespace diffulex_edge {
namespace {

ModelConfig read_wedlm(ConfigReader& reader) {
  ModelConfig config = read_transformers_config(reader, 32);
  config.head_dim = reader.size("head_dim").value_or(config.head_dim);
  config.qkv_bias = reader.boolean("attention_bias").value_or(true);
  config.qk_norm = reader.boolean("qk_norm").value_or(false);
  config.block_length = 1;
  return config;
}

}  // namespace

Architecture wedlm() {
  return {.family = "wedlm",
          .model_type = "wedlm",
          .architecture = "WeDLMForCausalLM",
          .read_config = read_wedlm,
          .build = build_transformers_decoder};
}

}  // namespace diffulex_edge
