// Stable-DiffCoder (StableDiffcoderForCausalLM, ByteDance-Seed/Stable-DiffCoder-8B-*): Llama's arithmetic with a
// block-causal mask. Blocks of 4 and the mask token 5 are the defaults of its generate(); config.json has neither.

#include "models/architecture.h"

namespace diffulex_edge {
namespace {

ModelConfig read_stable_diffcoder(ConfigReader& reader) {
  ModelConfig config = llama().read_config(reader);
  config.block_length = reader.size("block_length").value_or(4);
  if (!config.mask_token_id) {
    config.mask_token_id = 5;
  }
  return config;
}

}  // namespace

Architecture stable_diffcoder() {
  return {.family = "stable_diffcoder",
          .model_type = "llama",
          .architecture = "StableDiffcoderForCausalLM",
          .read_config = read_stable_diffcoder,
          .build = build_transformers_decoder};
}

}  // namespace diffulex_edge
