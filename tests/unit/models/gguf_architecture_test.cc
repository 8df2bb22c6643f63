#include "models/gguf_architecture.h"

#include <gtest/gtest.h>

#include "support/expect_error.h"

namespace diffulex_edge {
namespace {

// Llama's.
ModelConfig causal() {
  return {.family = "llama",
          .architecture = "LlamaForCausalLM",
          .hidden_size = 64,
          .num_layers = 2,
          .num_heads = 4,
          .num_kv_heads = 2,
          .head_dim = 16,
          .intermediate_size = 96,
          .vocab_size = 100,
          .max_positions = 128,
          .block_length = 1};
}

ModelConfig with_experts() {
  ModelConfig config = causal();
  config.qk_norm = true;
  config.experts.count = 8;
  config.experts.intermediate_size = 32;
  config.experts.route.experts_per_token = 2;
  config.experts.route.normalizes = true;
  return config;
}

void expect_refused(const ModelConfig& config, std::initializer_list<std::string> parts) {
  testing::expect_error(ErrorCode::kUnsupported, parts, [&] { gguf_architecture(config); });
}

TEST(GgufArchitecture, FollowsFromThePartsOfTheModel) {
  ModelConfig config = causal();
  EXPECT_EQ(gguf_architecture(config), "llama");
  config.qkv_bias = true;
  EXPECT_EQ(gguf_architecture(config), "qwen2");
  config.attention_output_bias = true;
  EXPECT_EQ(gguf_architecture(config), "llama");
  config.attention_output_bias = false;
  config.head_dim = 32;  // llama.cpp's Qwen2 has none of its own
  EXPECT_EQ(gguf_architecture(config), "llama");
  config.head_dim = 16;
  config.block_length = 0;
  EXPECT_EQ(gguf_architecture(config), "dream");
  config.family = "llada";
  EXPECT_EQ(gguf_architecture(config), "llada");
  config.qkv_bias = false;
  EXPECT_EQ(gguf_architecture(config), "llada");
  config.qk_norm = true;
  EXPECT_EQ(gguf_architecture(config), "qwen3");
}

TEST(GgufArchitecture, OfExpertsFollowsFromTheRouter) {
  ModelConfig config = with_experts();
  EXPECT_EQ(gguf_architecture(config), "qwen3moe");
  config.block_length = 0;
  EXPECT_EQ(gguf_architecture(config), "rnd1");
  config.experts.route.normalizes = false;
  EXPECT_EQ(gguf_architecture(config), "llada-moe");
  config.block_length = 1;
  expect_refused(config, {"does not divide the chosen experts' weights"});
  config = with_experts();
  config.experts.dense_layers = {1};
  expect_refused(config, {"no experts in layer 1"});
  config = with_experts();
  config.experts.shared_intermediate_size = 32;
  expect_refused(config, {"all tokens share"});
  config = with_experts();
  config.experts.route.score = RouteAttributes::Score::kSigmoid;
  expect_refused(config, {"not softmax"});
}

TEST(GgufArchitecture, IsRefusedWhereLlamaCppComputesSomethingElse) {
  ModelConfig config = causal();
  config.block_length = 4;
  expect_refused(config, {"LlamaForCausalLM", "blocks of 4", "--block-length 1 or 0"});
  config = causal();
  config.rotary_dim = 8;
  expect_refused(config, {"8 of each head's 16"});
  config = causal();
  config.qk_norm = true;
  config.qkv_bias = true;
  expect_refused(config, {"biases beside norms"});
  config = causal();
  config.block_length = 0;
  config.mlp_bias = true;
  expect_refused(config, {"biases of its output projections"});
  config = causal();
  config.qk_norm = true;
  config.rope.type = RopeConfig::Type::kLlama3;
  expect_refused(config, {"in the layout of qwen3"});
  config.rope.type = RopeConfig::Type::kYarn;
  config.rope.factor = 4.0;
  expect_refused(config, {"attention factor of its own"});
}

TEST(GgufArchitecture, PlacesLayersByTheirCanonicalNames) {
  const ModelConfig config = causal();
  EXPECT_EQ(gguf_place(config, "embedding", "weight").tensor, "token_embd.weight");
  EXPECT_EQ(gguf_place(config, "lm_head", "weight").tensor, "output.weight");
  EXPECT_EQ(gguf_place(config, "layers.12.post_attention_norm", "weight").tensor, "blk.12.ffn_norm.weight");
  const GgufPlace query = gguf_place(config, "layers.1.q_proj", "bias");
  EXPECT_EQ(query.tensor, "blk.1.attn_q.bias");
  EXPECT_EQ(query.heads, 4);
  EXPECT_EQ(gguf_place(config, "layers.1.k_proj", "weight").heads, 2);
  EXPECT_EQ(gguf_place(config, "layers.1.v_proj", "weight").heads, 0);
  const GgufPlace expert = gguf_place(with_experts(), "layers.0.experts.7.down_proj", "weight");
  EXPECT_EQ(expert.tensor, "blk.0.ffn_down_exps.weight");
  EXPECT_EQ(expert.part, 7);
  EXPECT_EQ(gguf_place(with_experts(), "layers.0.q_proj", "weight").heads, 0);
}

}  // namespace
}  // namespace diffulex_edge
