// SDAR (SDARForCausalLM, JetLM/SDAR-*-Chat): Qwen3's arithmetic with a block-causal mask. Published configurations have
// no block length (training ones say "block_size"); its sampler's default is 4.

#include "models/architecture.h"

namespace diffulex_edge {
namespace {

ModelConfig read_sdar(ConfigReader& reader) {
  ModelConfig config = read_qwen3_config(reader);
  const auto block_size = reader.size("block_size");
  config.block_length = reader.size("block_length").value_or(block_size.value_or(4));
  if (block_size && *block_size != config.block_length) {
    reader.fail("block_size", "is " + std::to_string(*block_size) + ", block_length " +
                                  std::to_string(config.block_length) + ": they contradict each other");
  }
  reader.ignore({"attn_implementation", "fuse_cross_entropy", "micro_forward", "skip_checkpoint", "use_deepep", "debug",
                 "ep_size"});
  return config;
}

}  // namespace

Architecture sdar() {
  return {.family = "sdar",
          .model_type = "sdar",
          .architecture = "SDARForCausalLM",
          .read_config = read_sdar,
          .build = build_transformers_decoder};
}

}  // namespace diffulex_edge
