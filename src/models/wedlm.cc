// WeDLM (WeDLMForCausalLM, tencent/WeDLM-*): Qwen2.5's or Qwen3's arithmetic, by two keys, and a causal mask. Its
// decoder (diffusion/window_decoder.cc) puts masked tokens behind all others, at the positions that they will have.

#include "models/architecture.h"

namespace diffulex_edge {
namespace {

constexpr std::int64_t kUsualMaskToken = 151665;  // of the published engine, where config.json says nothing

ModelConfig read_wedlm(ConfigReader& reader) {
  ModelConfig config = read_transformers_config(reader, 32);
  config.head_dim = reader.size("head_dim").value_or(config.head_dim);
  config.qkv_bias = reader.boolean("attention_bias").value_or(true);
  config.qk_norm = reader.boolean("qk_norm").value_or(false);
  config.block_length = 1;
  if (!config.mask_token_id && config.vocab_size > kUsualMaskToken) {
    config.mask_token_id = kUsualMaskToken;
  }
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
