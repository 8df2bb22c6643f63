#include <gtest/gtest.h>

#include <cmath>

#include "diffulex_edge/model.h"
#include "models/rope.h"
#include "support/expect_error.h"
#include "support/tiny_model.h"

namespace diffulex_edge {
namespace {

using Json = nlohmann::json;
using testing::llada_config;
using testing::transformers_config;

class ReadModelConfig : public ::testing::Test {
 protected:
  ModelConfig read(const Json& config, const ModelOptions& options = {}) {
    testing::write_file(folder_ / "config.json", config.dump());
    return read_model_config(folder_.path(), options);
  }
  void expect_error(ErrorCode code, const Json& config, const std::string& key) {
    testing::expect_error(code, {"config.json", "'" + key + "'"}, [&] { read(config); });
  }
  testing::TemporaryFolder folder_;
};

TEST_F(ReadModelConfig, UnderstandsEveryFamily) {
  const ModelConfig llada = read(llada_config());
  EXPECT_EQ(llada.family, "llada");
  EXPECT_EQ(llada.block_length, 0);
  EXPECT_EQ(llada.head_dim, 16);
  EXPECT_FALSE(llada.qkv_bias);

  Json dream_json = transformers_config("Dream", "DreamModel");
  dream_json.erase("head_dim");
  const ModelConfig dream = read(dream_json);
  EXPECT_TRUE(dream.qkv_bias);
  EXPECT_EQ(dream.block_length, 0);

  const ModelConfig sdar = read(transformers_config("sdar", "SDARForCausalLM"));
  EXPECT_TRUE(sdar.qk_norm);
  EXPECT_EQ(sdar.block_length, 4);

  const ModelConfig fast = read(transformers_config("Fast_dLLM_Qwen", "Fast_dLLM_QwenForCausalLM"));
  EXPECT_TRUE(fast.qkv_bias);
  EXPECT_EQ(fast.block_length, 32);

  EXPECT_EQ(read(transformers_config("llama", "LlamaForCausalLM")).block_length, 1);
  EXPECT_TRUE(read(transformers_config("qwen2", "Qwen2ForCausalLM")).qkv_bias);
  EXPECT_TRUE(read(transformers_config("qwen3", "Qwen3ForCausalLM")).qk_norm);
}

TEST_F(ReadModelConfig, RefusesLladaValuesThatChangeTheMathematics) {
  const std::pair<const char*, Json> kCases[] = {{"rope", false},
                                                 {"alibi", true},
                                                 {"block_type", "sequential"},
                                                 {"activation_type", "gelu"},
                                                 {"layer_norm_type", "default"},
                                                 {"layer_norm_with_affine", false},
                                                 {"attention_layer_norm", true},
                                                 {"scale_logits", true},
                                                 {"input_emb_norm", true},
                                                 {"block_group_size", 2},
                                                 {"bias_for_layer_norm", true}};
  for (const auto& [key, value] : kCases) {
    Json config = llada_config();
    config[key] = value;
    expect_error(ErrorCode::kUnsupported, config, key);
  }
}

TEST_F(ReadModelConfig, RefusesAbsentLladaKeysWhoseDefaultIsAnotherNetwork) {
  for (const char* key : {"rope", "block_type", "activation_type", "layer_norm_type"}) {
    Json config = llada_config();
    config.erase(key);
    expect_error(ErrorCode::kUnsupported, config, key);
  }
}

TEST_F(ReadModelConfig, RefusesTransformersValuesThatChangeTheMathematics) {
  const std::pair<const char*, Json> kCases[] = {{"hidden_act", "gelu"},
                                                 {"use_sliding_window", true},
                                                 {"use_mrope", true},
                                                 {"partial_rotary_factor", 0.5},
                                                 {"layer_types", {"full_attention", "sliding_attention"}},
                                                 {"quantization_config", {{"quant_method", "quip"}}}};
  for (const auto& [key, value] : kCases) {
    Json config = transformers_config("qwen3", "Qwen3ForCausalLM");
    config[key] = value;
    expect_error(ErrorCode::kUnsupported, config, key);
  }
}

TEST_F(ReadModelConfig, RefusesUnknownKeysUnlessDeclaredHarmless) {
  Json config = llada_config();
  config["new_scaling"] = 2;
  expect_error(ErrorCode::kUnsupported, config, "new_scaling");
  EXPECT_NO_THROW(
      read(config, {.seq_len = {}, .block_length = {}, .mask_token_id = {}, .ignored_config_keys = {"new_scaling"}}));
}

TEST_F(ReadModelConfig, RefusesOtherArchitecturesOfAKnownType) {
  Json config = llada_config();
  config["architectures"] = {"LLaDAForTokenClassification"};
  expect_error(ErrorCode::kUnsupported, config, "architectures");
  config["model_type"] = "mamba";
  expect_error(ErrorCode::kUnsupported, config, "model_type");
  config.erase("model_type");
  expect_error(ErrorCode::kBadFile, config, "model_type");
}

TEST_F(ReadModelConfig, RefusesMissingWrongAndContradictoryValues) {
  Json config = llada_config();
  config.erase("d_model");
  expect_error(ErrorCode::kBadFile, config, "d_model");
  config = llada_config();
  config["d_model"] = "64";
  expect_error(ErrorCode::kBadFile, config, "d_model");
  config["d_model"] = -64;
  expect_error(ErrorCode::kBadFile, config, "d_model");
  config["d_model"] = 66;
  expect_error(ErrorCode::kBadFile, config, "n_heads");
  config = llada_config();
  config["multi_query_attention"] = true;
  expect_error(ErrorCode::kBadFile, config, "multi_query_attention");
  config = llada_config();
  config["embedding_size"] = 49;
  expect_error(ErrorCode::kBadFile, config, "embedding_size");
  config = transformers_config("sdar", "SDARForCausalLM");
  config["block_length"] = 4;
  config["block_size"] = 8;
  expect_error(ErrorCode::kBadFile, config, "block_size");
  config = transformers_config("qwen3", "Qwen3ForCausalLM");
  config["num_key_value_heads"] = 3;
  testing::expect_error(ErrorCode::kBadFile, {"4 attention heads", "3 key/value heads"}, [&] { read(config); });
}

TEST_F(ReadModelConfig, FollowsTheFamiliesDefaults) {
  Json config = transformers_config("qwen3", "Qwen3ForCausalLM");
  config.erase("head_dim");
  EXPECT_EQ(read(config).head_dim, 128);
  config["num_key_value_heads"] = nullptr;
  EXPECT_EQ(read(config).num_kv_heads, 4);
  config = transformers_config("llama", "LlamaForCausalLM");
  config.erase("num_key_value_heads");
  EXPECT_EQ(read(config).num_kv_heads, 4);
  config.erase("head_dim");
  EXPECT_EQ(read(config).head_dim, 16);
  config = llada_config();
  config.erase("weight_tying");
  EXPECT_TRUE(read(config).tie_word_embeddings);
}

TEST_F(ReadModelConfig, TakesTheCallersBlockLength) {
  const Json config = transformers_config("sdar", "SDARForCausalLM");
  EXPECT_EQ(read(config, {.seq_len = {}, .block_length = 0, .ignored_config_keys = {}}).block_length, 0);
  EXPECT_EQ(read(config, {.seq_len = {}, .block_length = 16, .ignored_config_keys = {}}).block_length, 16);
  testing::expect_error(ErrorCode::kInvalidArgument, {"negative"},
                        [&] { read(config, {.seq_len = {}, .block_length = -1, .ignored_config_keys = {}}); });
}

TEST_F(ReadModelConfig, ReadsRopeUnderBothSpellings) {
  Json config = transformers_config("qwen3", "Qwen3ForCausalLM");
  config.erase("rope_theta");
  config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 1e6}};
  EXPECT_EQ(read(config).rope.theta, 1e6);
  config.erase("rope_parameters");
  config["rope_scaling"] = {{"type", "linear"}, {"factor", 4.0}};
  EXPECT_EQ(read(config).rope.type, RopeConfig::Type::kLinear);
  config["rope_scaling"] = {{"rope_type", "dynamic"}, {"factor", 4.0}};
  testing::expect_error(ErrorCode::kUnsupported, {"rope_type", "dynamic"}, [&] { read(config); });
  config["rope_scaling"] = {{"rope_type", "linear"}};
  testing::expect_error(ErrorCode::kBadFile, {"factor", "missing"}, [&] { read(config); });
  config["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 100}};
  EXPECT_NEAR(read(config).rope.attention_factor, 0.1 * std::log(4.0) + 1.0, 1e-12);
}

TEST(RopeInverseFrequencies, FollowTheirDefinitions) {
  const RopeConfig plain{.theta = 10000.0};
  const auto base = rope_inverse_frequencies(plain, 8);
  ASSERT_EQ(base.size(), 4U);
  EXPECT_FLOAT_EQ(base[0], 1.0F);
  EXPECT_FLOAT_EQ(base[1], 0.1F);
  EXPECT_FLOAT_EQ(base[3], 0.001F);

  RopeConfig linear = plain;
  linear.type = RopeConfig::Type::kLinear;
  linear.factor = 4.0;
  EXPECT_FLOAT_EQ(rope_inverse_frequencies(linear, 8)[1], 0.025F);

  // Wavelengths 6.28, 62.8, 628, 6283 in a context of 100: below 100/4 kept, above 100/1 divided, between blended.
  RopeConfig llama3 = plain;
  llama3.type = RopeConfig::Type::kLlama3;
  llama3.factor = 8.0;
  llama3.original_max_positions = 100;
  const auto blended = rope_inverse_frequencies(llama3, 8);
  EXPECT_FLOAT_EQ(blended[0], 1.0F);
  const double smooth = (100.0 / (2.0 * M_PI / 0.1) - 1.0) / 3.0;
  EXPECT_FLOAT_EQ(blended[1], static_cast<float>((1.0 - smooth) * 0.1 / 8.0 + smooth * 0.1));
  EXPECT_FLOAT_EQ(blended[2], 0.01F / 8.0F);

  // Fast dimensions keep their frequency, slow ones are divided.
  RopeConfig yarn = plain;
  yarn.type = RopeConfig::Type::kYarn;
  yarn.factor = 4.0;
  yarn.original_max_positions = 4096;
  const auto ramped = rope_inverse_frequencies(yarn, 64);
  EXPECT_FLOAT_EQ(ramped.front(), 1.0F);
  EXPECT_FLOAT_EQ(ramped.back(), static_cast<float>(std::pow(10000.0, -62.0 / 64.0) / 4.0));
}

}  // namespace
}  // namespace diffulex_edge
