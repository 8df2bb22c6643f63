// LLaDA-MoE (LLaDAMoEModelLM, inclusionAI/LLaDA-MoE-7B-A1B-*): OLMoE's network with norms of each query and key head,
// bidirectional; logits are not shifted. It has LLaDA's model_type and a class of its own.
//
// The router (LLaDAMoESparseMoeBlock): softmax over all experts, plus expert_bias where the model has one; the largest
// are chosen, and these sums are the weights as they are: the code sets norm_topk_prob to false, whatever config.json
// says, and reads neither a scale nor groups.

#include "models/architecture.h"

namespace diffulex_edge {
namespace {

std::vector<std::int64_t> read_dense_layers(ConfigReader& reader, std::int64_t layers) {
  const nlohmann::json* frequencies = reader.value("moe_layer_freq");
  if (frequencies == nullptr || !frequencies->is_array() || static_cast<std::int64_t>(frequencies->size()) != layers) {
    reader.fail("moe_layer_freq", "is not a list with 0 or 1 for each of the " + std::to_string(layers) + " layers");
  }
  std::vector<std::int64_t> dense;
  for (std::size_t i = 0; i < frequencies->size(); ++i) {
    if ((*frequencies)[i] == 0) {
      dense.push_back(static_cast<std::int64_t>(i));
    }
  }
  return dense;
}

ModelConfig read_llada_moe(ConfigReader& reader) {
  ModelConfig config = read_transformers_sizes(reader, 0, "dense_intermediate_size");
  if (config.head_dim == 0) {
    reader.fail("num_attention_heads", "is " + std::to_string(config.num_heads) + ", which does not divide " +
                                           std::to_string(config.hidden_size));
  }
  config.rotary_dim = read_rotary_dim(reader, config.head_dim, 1.0);
  config.qkv_bias = reader.boolean("attention_bias").value_or(false);
  config.attention_output_bias = config.qkv_bias;
  config.qk_norm = reader.boolean("qk_layernorm").value_or(false);
  config.block_length = 0;
  config.experts = read_expert_counts(reader);
  config.experts.intermediate_size = reader.require_size("expert_intermediate_size");
  config.experts.shared_intermediate_size = reader.size("shared_expert_intermediate_size").value_or(0);
  config.experts.dense_layers = read_dense_layers(reader, config.num_layers);
  config.experts.has_router_bias = reader.boolean("moe_router_enable_expert_bias").value_or(false);
  config.experts.route.has_biased_weights = true;

  reader.expect("head_dim", config.head_dim);
  reader.expect("moe_router_score_function", "softmax");
  reader.expect("routed_scaling_factor", 1);
  reader.expect("clip_qkv", nullptr);
  reader.ignore({"norm_topk_prob", "router_num_group", "router_topk_group"});
  return config;
}

DecoderNames llada_moe_names() {
  DecoderNames names = transformers_names();
  names.layer = [of = std::move(names.layer)](std::int64_t layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    LayerNames result = of(layer);
    result.router_bias = prefix + "mlp.expert_bias";
    result.shared_experts = prefix + "shared_expert.";
    return result;
  };
  return names;
}

Graph build_llada_moe(const ModelConfig& config, const Checkpoint& checkpoint, std::int64_t seq_len) {
  return build_decoder(config, llada_moe_names(), checkpoint, seq_len);
}

}  // namespace

Architecture llada_moe() {
  return {.family = "llada_moe",
          .model_type = "llada",
          .architecture = "LLaDAMoEModelLM",
          .read_config = read_llada_moe,
          .build = build_llada_moe};
}

}  // namespace diffulex_edge
