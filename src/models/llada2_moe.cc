// LLaDA 2 (LLaDA2MoeModelLM, inclusionAI/LLaDA2.0-mini, -flash and LLaDA2.1): Bailing-MoE-V2's network with a
// block-causal mask, which its sampler makes, of 32 tokens by default. Queries, keys and values are one matrix; of each
// head the first partial_rotary_factor turns; the first first_k_dense_replace layers have a plain MLP.
//
// The router (LLaDA2MoeGate): sigmoid of the logits, in float32. expert_bias is added for the choice only, of groups
// by the sum of their two best and of experts in these groups; weights are the chosen scores over their sum (where
// there are several) times routed_scaling_factor. Shared experts are one MLP of their summed width.

#include "models/architecture.h"

namespace diffulex_edge {
namespace {

constexpr std::int64_t kLlada2BlockLength = 32;

void read_groups(ConfigReader& reader, ExpertConfig& experts) {
  RouteAttributes& route = experts.route;
  route.groups = reader.size("n_group").value_or(8);
  route.groups_per_token = reader.size("topk_group").value_or(4);
  const std::int64_t size = experts.count / route.groups;
  if (experts.count % route.groups != 0 || size < 2) {
    reader.fail("n_group", "is " + std::to_string(route.groups) + ", which does not make groups of two or more of " +
                               std::to_string(experts.count) + " experts");
  }
  if (route.groups_per_token > route.groups || route.experts_per_token > route.groups_per_token * size) {
    reader.fail("topk_group", "is " + std::to_string(route.groups_per_token) + " of " + std::to_string(route.groups) +
                                  " groups, where a token can't choose " + std::to_string(route.experts_per_token) +
                                  " experts");
  }
}

std::int64_t read_first_dense(ConfigReader& reader) {
  const std::int64_t count = reader.integer("first_k_dense_replace").value_or(0);
  if (count < 0) {
    reader.fail("first_k_dense_replace", "is " + std::to_string(count) + ", not a number of layers");
  }
  return count;
}

std::int64_t read_shared_size(ConfigReader& reader, std::int64_t expert_size) {
  const std::int64_t count = reader.integer("num_shared_experts").value_or(0);
  if (count < 0 || count > INT32_MAX) {
    reader.fail("num_shared_experts", "is " + std::to_string(count) + ", not a number of experts");
  }
  const std::int64_t size = count * expert_size;
  const auto stated = reader.integer("moe_shared_expert_intermediate_size");
  if (stated && count > 0 && *stated != expert_size && *stated != size) {
    reader.fail("moe_shared_expert_intermediate_size", "is " + std::to_string(*stated) + ", but the model's code has " +
                                                           std::to_string(size) + ", from the other keys");
  }
  return size;
}

ModelConfig read_llada2_moe(ConfigReader& reader) {
  ModelConfig config = read_transformers_sizes(reader, 0, "intermediate_size");
  config.head_dim = reader.size("head_dim").value_or(config.head_dim);
  config.rotary_dim = read_rotary_dim(reader, config.head_dim, 0.5);
  config.qkv_bias = reader.boolean("use_qkv_bias").value_or(false);
  config.attention_output_bias = reader.boolean("use_bias").value_or(true);
  config.qk_norm = reader.boolean("use_qk_norm").value_or(true);
  config.block_length = read_block_length(reader, kLlada2BlockLength);
  ExpertConfig& experts = config.experts;
  experts = read_expert_counts(reader);
  experts.intermediate_size = reader.require_size("moe_intermediate_size");
  experts.shared_intermediate_size = read_shared_size(reader, experts.intermediate_size);
  experts.first_dense = read_first_dense(reader);
  experts.has_router_bias = true;
  experts.route.score = RouteAttributes::Score::kSigmoid;
  experts.route.normalizes = experts.route.experts_per_token > 1;
  experts.route.scale = static_cast<float>(reader.positive("routed_scaling_factor", 2.5));
  read_groups(reader, experts);

  reader.expect("rotary_dim", config.rotary_dim == 0 ? config.head_dim : config.rotary_dim,
                config.rotary_dim == 0 ? config.head_dim : config.rotary_dim);
  reader.expect("score_function", "sigmoid");
  reader.expect("norm_topk_prob", true);
  reader.expect("moe_router_enable_expert_bias", true);
  reader.expect("use_rmsnorm", true);
  reader.expect("norm_head", false);
  reader.expect("norm_softmax", false);
  reader.expect("using_split_qkv_in_self_attention", false);
  reader.expect("num_nextn_predict_layers", 0);
  reader.ignore({"router_dtype", "embedding_dropout", "output_dropout", "mtp_loss_scaling_factor"});
  return config;
}

DecoderNames llada2_names() {
  return {
      .embedding = "model.word_embeddings", .norm = "model.norm", .head = "lm_head", .layer = [](std::int64_t layer) {
        const std::string prefix = "model.layers." + std::to_string(layer) + ".";
        return LayerNames{.input_norm = prefix + "input_layernorm",
                          .q_proj = {},
                          .k_proj = {},
                          .v_proj = {},
                          .o_proj = prefix + "attention.dense",
                          .q_norm = prefix + "attention.query_layernorm",
                          .k_norm = prefix + "attention.key_layernorm",
                          .post_attention_norm = prefix + "post_attention_layernorm",
                          .gate_proj = prefix + "mlp.gate_proj",
                          .up_proj = prefix + "mlp.up_proj",
                          .down_proj = prefix + "mlp.down_proj",
                          .qkv_proj = prefix + "attention.query_key_value",
                          .router = prefix + "mlp.gate",
                          .router_bias = prefix + "mlp.gate.expert_bias",
                          .experts = prefix + "mlp.experts.",
                          .shared_experts = prefix + "mlp.shared_experts."};
      }};
}

Graph build_llada2_moe(const ModelConfig& config, const Checkpoint& checkpoint, std::int64_t seq_len) {
  return build_decoder(config, llada2_names(), checkpoint, seq_len);
}

}  // namespace

Architecture llada2_moe() {
  return {.family = "llada2_moe",
          .model_type = "llada2_moe",
          .architecture = "LLaDA2MoeModelLM",
          .read_config = read_llada2_moe,
          .build = build_llada2_moe};
}

}  // namespace diffulex_edge
