// config.json of families with routed experts: what it means, and that values which can't be are refused by name.

#include <gtest/gtest.h>

#include "diffulex_edge/model.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

using Json = nlohmann::json;

Json sizes() {
  return {{"hidden_size", 64}, {"num_hidden_layers", 4}, {"num_attention_heads", 4}, {"num_key_value_heads", 2},
          {"vocab_size", 50},  {"num_experts", 8},       {"num_experts_per_tok", 2}, {"tie_word_embeddings", false}};
}

Json qwen3_moe_config(const std::string& type, const std::string& architecture) {
  Json config = sizes();
  config.update({{"architectures", {architecture}},
                 {"model_type", type},
                 {"intermediate_size", 96},
                 {"moe_intermediate_size", 32},
                 {"norm_topk_prob", true},
                 {"decoder_sparse_step", 1},
                 {"mlp_only_layers", Json::array()}});
  return config;
}

Json llada_moe_config() {
  Json config = sizes();
  config.update({{"architectures", {"LLaDAMoEModelLM"}},
                 {"model_type", "llada"},
                 {"dense_intermediate_size", 96},
                 {"expert_intermediate_size", 32},
                 {"moe_layer_freq", {0, 1, 1, 1}},
                 {"qk_layernorm", true},
                 {"partial_rotary_factor", 1}});
  return config;
}

Json llada2_config() {
  Json config = sizes();
  config.update({{"architectures", {"LLaDA2MoeModelLM"}},
                 {"model_type", "llada2_moe"},
                 {"intermediate_size", 96},
                 {"moe_intermediate_size", 32},
                 {"first_k_dense_replace", 1},
                 {"num_shared_experts", 2},
                 {"n_group", 4},
                 {"topk_group", 2},
                 {"use_bias", false},
                 {"head_dim", 16},
                 {"partial_rotary_factor", 0.5}});
  return config;
}

class ExpertConfigFile : public ::testing::Test {
 protected:
  ModelConfig read(const Json& config) {
    testing::write_file(folder_ / "config.json", config.dump());
    return read_model_config(folder_.path());
  }
  ModelConfig with(Json config, const char* key, const Json& value) {
    config[key] = value;
    return read(config);
  }
  void expect_refused(ErrorCode code, const Json& config, const char* key, const Json& value) {
    SCOPED_TRACE(std::string(key) + " = " + value.dump());
    testing::expect_error(code, {"config.json", key}, [&] { with(config, key, value); });
  }
  testing::TemporaryFolder folder_;
};

TEST_F(ExpertConfigFile, OfQwen3MoeAndItsDescendants) {
  const ModelConfig config = read(qwen3_moe_config("qwen3_moe", "Qwen3MoeForCausalLM"));
  EXPECT_EQ(config.family, "qwen3_moe");
  EXPECT_EQ(config.block_length, 1);
  EXPECT_EQ(config.experts.count, 8);
  EXPECT_EQ(config.experts.intermediate_size, 32);
  EXPECT_EQ(config.experts.route.experts_per_token, 2);
  EXPECT_TRUE(config.experts.route.normalizes);
  EXPECT_FALSE(config.experts.has_router_bias);
  EXPECT_EQ(config.experts.shared_intermediate_size, 0);
  EXPECT_EQ(read(qwen3_moe_config("sdar_moe", "SDARMoeForCausalLM")).block_length, 4);
  const ModelConfig rnd1 = with(qwen3_moe_config("rnd1", "RND1LM"), "rope_scaling", false);
  EXPECT_EQ(rnd1.block_length, 0);
  EXPECT_FALSE(rnd1.mask_token_id.has_value());  // the usual one is not in so small a vocabulary
  EXPECT_EQ(with(qwen3_moe_config("rnd1", "RND1LM"), "vocab_size", 151936).mask_token_id, 151669);
}

TEST_F(ExpertConfigFile, SaysWhichLayersAreDense) {
  Json config = qwen3_moe_config("qwen3_moe", "Qwen3MoeForCausalLM");
  config["decoder_sparse_step"] = 2;
  config["mlp_only_layers"] = {3};
  ModelConfig model = read(config);
  const std::vector<bool> by_step = {true, false, true, true};
  for (std::int64_t layer = 0; layer < 4; ++layer) {
    EXPECT_EQ(model.experts.is_dense(layer), by_step[static_cast<std::size_t>(layer)]) << layer;
  }
  for (const Json& first : {llada_moe_config(), llada2_config()}) {
    model = read(first);
    EXPECT_TRUE(model.experts.is_dense(0));
    EXPECT_FALSE(model.experts.is_dense(1));
  }
}

TEST_F(ExpertConfigFile, OfLladaMoeIsOfItsClass) {
  const ModelConfig config = read(llada_moe_config());
  EXPECT_EQ(config.family, "llada_moe");
  EXPECT_EQ(config.intermediate_size, 96);
  EXPECT_TRUE(config.qk_norm);
  EXPECT_FALSE(config.experts.route.normalizes);
  EXPECT_EQ(config.block_length, 0);
  expect_refused(ErrorCode::kUnsupported, llada_moe_config(), "architectures", {"LLaDAOther"});
  expect_refused(ErrorCode::kUnsupported, llada_moe_config(), "moe_router_score_function", "sigmoid");
  expect_refused(ErrorCode::kUnsupported, llada_moe_config(), "routed_scaling_factor", 2);
  expect_refused(ErrorCode::kUnsupported, llada_moe_config(), "clip_qkv", 8.0);
  expect_refused(ErrorCode::kBadFile, llada_moe_config(), "moe_layer_freq", {1, 1});
  expect_refused(ErrorCode::kBadFile, llada_moe_config(), "moe_layer_freq", 1);
  expect_refused(ErrorCode::kBadFile, llada_moe_config(), "num_attention_heads", 5);
}

TEST_F(ExpertConfigFile, OfLlada2) {
  const ModelConfig config = read(llada2_config());
  EXPECT_EQ(config.family, "llada2_moe");
  EXPECT_EQ(config.block_length, 32);
  EXPECT_EQ(config.rotary_dim, 8);
  EXPECT_TRUE(config.qk_norm);
  EXPECT_EQ(config.experts.shared_intermediate_size, 64);
  EXPECT_TRUE(config.experts.has_router_bias);
  EXPECT_EQ(config.experts.route.score, RouteAttributes::Score::kSigmoid);
  EXPECT_EQ(config.experts.route.groups, 4);
  EXPECT_EQ(config.experts.route.groups_per_token, 2);
  EXPECT_EQ(config.experts.route.scale, 2.5F);
  EXPECT_TRUE(config.experts.route.normalizes);
  EXPECT_FALSE(with(llada2_config(), "num_experts_per_tok", 1).experts.route.normalizes);
  EXPECT_EQ(with(llada2_config(), "num_shared_experts", 0).experts.shared_intermediate_size, 0);
  for (const char* key : {"score_function", "norm_topk_prob", "moe_router_enable_expert_bias", "norm_head",
                          "norm_softmax", "use_rmsnorm", "using_split_qkv_in_self_attention", "rotary_dim"}) {
    expect_refused(ErrorCode::kUnsupported, llada2_config(), key, "other");
  }
}

TEST_F(ExpertConfigFile, RefusesWhatCannotBe) {
  for (const Json& config :
       {qwen3_moe_config("qwen3_moe", "Qwen3MoeForCausalLM"), llada_moe_config(), llada2_config()}) {
    for (const Json& count : {Json(0), Json(-1), Json("8"), Json(1e30)}) {
      expect_refused(ErrorCode::kBadFile, config, "num_experts", count);
      expect_refused(ErrorCode::kBadFile, config, "num_experts_per_tok", count);
    }
    expect_refused(ErrorCode::kBadFile, config, "num_experts_per_tok", 9);
    expect_refused(ErrorCode::kBadFile, config, "num_local_experts", 7);
  }
  for (const Json& factor : {Json(0.01), Json(1.5), Json(0.2)}) {
    expect_refused(ErrorCode::kBadFile, llada2_config(), "partial_rotary_factor", factor);
  }
  expect_refused(ErrorCode::kBadFile, llada2_config(), "n_group", 3);
  expect_refused(ErrorCode::kBadFile, llada2_config(), "n_group", 8);
  expect_refused(ErrorCode::kBadFile, llada2_config(), "topk_group", 5);
  testing::expect_error(ErrorCode::kBadFile, {"config.json", "topk_group", "can't choose 5 experts"},
                        [&] { with(llada2_config(), "num_experts_per_tok", 5); });
  expect_refused(ErrorCode::kBadFile, llada2_config(), "first_k_dense_replace", -1);
  expect_refused(ErrorCode::kBadFile, llada2_config(), "num_shared_experts", -1);
  expect_refused(ErrorCode::kBadFile, llada2_config(), "moe_shared_expert_intermediate_size", 48);
  const Json qwen3_moe = qwen3_moe_config("qwen3_moe", "Qwen3MoeForCausalLM");
  expect_refused(ErrorCode::kBadFile, qwen3_moe, "mlp_only_layers", 3);
  expect_refused(ErrorCode::kBadFile, qwen3_moe, "mlp_only_layers", {-1});
  expect_refused(ErrorCode::kBadFile, qwen3_moe, "decoder_sparse_step", 0);
  expect_refused(ErrorCode::kUnsupported, qwen3_moe_config("rnd1", "RND1LM"), "is_causal", true);
}

}  // namespace
}  // namespace diffulex_edge
