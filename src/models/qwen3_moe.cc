// Qwen3-MoE (Qwen3MoeForCausalLM of transformers, Qwen/Qwen3-30B-A3B): Qwen3's attention, and routed experts in the
// layers that decoder_sparse_step and mlp_only_layers leave them; causal. RND1 (RND1LM, radicalnumerics/RND1-Base-*) is
// the same network, bidirectional; the shift of its logits by one position is the sampler's.
//
// The router (Qwen3MoeTopKRouter, RND1SparseMoeBlock): softmax over all experts, the largest are chosen, and divided by
// their sum where norm_topk_prob says so.

#include <algorithm>

#include "models/architecture.h"

namespace diffulex_edge {
namespace {

constexpr std::int64_t kRnd1MaskToken = 151669;  // RND1Config's, which published files repeat

std::vector<std::int64_t> read_mlp_only_layers(ConfigReader& reader) {
  const nlohmann::json* listed = reader.value("mlp_only_layers");
  std::vector<std::int64_t> layers;
  if (listed == nullptr) {
    return layers;
  }
  if (!listed->is_array()) {
    reader.fail("mlp_only_layers", "is " + listed->dump() + ", not a list of layers");
  }
  for (const nlohmann::json& layer : *listed) {
    if (!layer.is_number_unsigned() || layer.get<std::uint64_t>() > INT32_MAX) {
      reader.fail("mlp_only_layers", "has " + layer.dump() + ", which is no layer's number");
    }
    layers.push_back(layer.get<std::int64_t>());
  }
  std::ranges::sort(layers);
  return layers;
}

ModelConfig read_qwen3_moe(ConfigReader& reader) {
  ModelConfig config = read_qwen3_moe_config(reader, false);
  config.block_length = 1;
  return config;
}

ModelConfig read_rnd1(ConfigReader& reader) {
  reader.drop_false({"rope_scaling", "sliding_window"});  // where others write null
  ModelConfig config = read_qwen3_moe_config(reader, true);
  config.block_length = 0;
  if (!config.mask_token_id && config.vocab_size > kRnd1MaskToken) {
    config.mask_token_id = kRnd1MaskToken;
  }
  reader.expect("is_causal", false);
  reader.ignore({"moe_backend", "num_diffusion_steps"});
  return config;
}

}  // namespace

ModelConfig read_qwen3_moe_config(ConfigReader& reader, bool normalizes) {
  ModelConfig config = read_transformers_config(reader, 4);
  config.head_dim = reader.size("head_dim").value_or(config.head_dim);
  config.qkv_bias = reader.boolean("attention_bias").value_or(false);
  config.attention_output_bias = config.qkv_bias;
  config.qk_norm = true;
  config.experts = read_expert_counts(reader);
  config.experts.intermediate_size = reader.require_size("moe_intermediate_size");
  config.experts.sparse_step = reader.size("decoder_sparse_step").value_or(1);
  config.experts.dense_layers = read_mlp_only_layers(reader);
  config.experts.route.normalizes = reader.boolean("norm_topk_prob").value_or(normalizes);
  return config;
}

Architecture qwen3_moe() {
  return {.family = "qwen3_moe",
          .model_type = "qwen3_moe",
          .architecture = "Qwen3MoeForCausalLM",
          .is_causal = true,
          .read_config = read_qwen3_moe,
          .build = build_transformers_decoder};
}

Architecture rnd1() {
  return {.family = "rnd1",
          .model_type = "rnd1",
          .architecture = "RND1LM",
          .read_config = read_rnd1,
          .build = build_transformers_decoder};
}

}  // namespace diffulex_edge
