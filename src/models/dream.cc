// Dream (DreamModel, Dream-org/Dream-v0-*-7B): Qwen2's arithmetic, bidirectional. The shift of its logits by one
// position is the sampler's, not the model's.

#include "models/architecture.h"

namespace diffulex_edge {
namespace {

ModelConfig read_dream(ConfigReader& reader) {
  ModelConfig config = read_transformers_config(reader, 32);
  config.qkv_bias = true;  // fixed in the model's code
  config.block_length = 0;
  reader.expect("head_dim", config.head_dim);
  reader.ignore({"attention_bias", "expand_token_id"});  // the latter is DreamOn's: find_expand_id() reads it
  return config;
}

}  // namespace

Architecture dream() {
  return {.family = "dream",
          .model_type = "Dream",
          .architecture = "DreamModel",
          .read_config = read_dream,
          .build = build_transformers_decoder};
}

}  // namespace diffulex_edge
