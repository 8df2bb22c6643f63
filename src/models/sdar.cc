// SDAR (SDARForCausalLM, JetLM/SDAR-*-Chat): Qwen3's arithmetic with a block-causal mask. Published configurations have
// no block length (training ones say "block_size"); its sampler's default is 4.

#include "models/architecture.h"

namespace diffulex_edge {
namespace {

constexpr std::int64_t kSdarBlockLength = 4;

ModelConfig read_sdar(ConfigReader& reader) {
  ModelConfig config = read_qwen3_config(reader);
  config.block_length = read_block_length(reader, kSdarBlockLength);
  ignore_sdar_training(reader);
  return config;
}

// SDAR-30B-A3B (SDARMoeForCausalLM): Qwen3-MoE's network and defaults with SDAR's mask.
ModelConfig read_sdar_moe(ConfigReader& reader) {
  ModelConfig config = read_qwen3_moe_config(reader, false);
  config.block_length = read_block_length(reader, kSdarBlockLength);
  ignore_sdar_training(reader);
  return config;
}

}  // namespace

std::int64_t read_block_length(ConfigReader& reader, std::int64_t fallback) {
  const auto block_size = reader.size("block_size");
  const std::int64_t length = reader.size("block_length").value_or(block_size.value_or(fallback));
  if (block_size && *block_size != length) {
    reader.fail("block_size", "is " + std::to_string(*block_size) + ", block_length " + std::to_string(length) +
                                  ": they contradict each other");
  }
  return length;
}

void ignore_sdar_training(ConfigReader& reader) {
  reader.ignore({"attn_implementation", "fuse_cross_entropy", "micro_forward", "skip_checkpoint", "use_deepep", "debug",
                 "ep_size"});
}

Architecture sdar() {
  return {.family = "sdar",
          .model_type = "sdar",
          .architecture = "SDARForCausalLM",
          .read_config = read_sdar,
          .build = build_transformers_decoder};
}

Architecture sdar_moe() {
  return {.family = "sdar_moe",
          .model_type = "sdar_moe",
          .architecture = "SDARMoeForCausalLM",
          .read_config = read_sdar_moe,
          .build = build_transformers_decoder};
}

}  // namespace diffulex_edge
