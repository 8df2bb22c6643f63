// Values at and beyond the edge of what a configuration may say.

#include <gtest/gtest.h>

#include <cmath>

#include "diffulex_edge/quantization.h"
#include "models/rope.h"
#include "support/expect_error.h"
#include "support/tiny_model.h"

namespace diffulex_edge {
namespace {

using Json = nlohmann::json;

class ConfigLimits : public ::testing::Test {
 protected:
  ModelConfig read(const Json& config, const ModelOptions& options = {}) {
    testing::write_file(folder_ / "config.json", config.dump());
    return read_model_config(folder_.path(), options);
  }
  static Json qwen3(const Json& scaling) {
    Json config = testing::transformers_config("qwen3", "Qwen3ForCausalLM");
    config["rope_scaling"] = scaling;
    return config;
  }
  testing::TemporaryFolder folder_;
};

TEST_F(ConfigLimits, IgnoreConfigKeyReachesNestedKeysAsItsAdviceSays) {
  EXPECT_NO_THROW(read(qwen3({{"rope_type", "linear"}, {"factor", 2}, {"foo", 1}}),
                       {.seq_len = {}, .block_length = {}, .ignored_config_keys = {"foo"}}));
}

TEST_F(ConfigLimits, Llama3WithoutItsRequiredKeysIsRefused) {
  EXPECT_THROW(read(qwen3({{"rope_type", "llama3"}, {"factor", 4}})), Error);
}

TEST_F(ConfigLimits, FrequenciesAreFiniteOrRefused) {
  struct Case {
    double theta;
    const char* type;
    double factor;
  };
  for (const Case& c : {Case{1.0, "yarn", 4.0}, Case{1e4, "linear", 1e-300}, Case{1e-300, "linear", 2.0}}) {
    Json config = qwen3({{"rope_type", c.type}, {"factor", c.factor}});
    config["rope_theta"] = c.theta;
    try {
      const ModelConfig model = read(config);
      for (const float f : rope_inverse_frequencies(model.rope, model.head_dim)) {
        ASSERT_TRUE(std::isfinite(f)) << config["rope_theta"] << config["rope_scaling"];
      }
    } catch (const Error&) {
    }
  }
}

TEST_F(ConfigLimits, AFloatThatFloat32CantHoldIsRefused) {
  Json config = testing::transformers_config("qwen3", "Qwen3ForCausalLM");
  config["rms_norm_eps"] = 1e300;
  EXPECT_THROW(read(config), Error);
}

TEST_F(ConfigLimits, ATiedInt8HeadWithOtherScalesIsRefused) {
  auto tensors = testing::qwen3_tensors(false);
  tensors.front() = {"model.embed_tokens.weight", DType::kI8, {50, 64}, std::string(3200, '\1')};
  const auto scales = [](float value) { return testing::bytes_of(std::vector<float>(50, value)); };
  tensors.push_back({"model.embed_tokens.weight_scale", DType::kF32, {50}, scales(1.0F)});
  tensors.push_back({"lm_head.weight", DType::kI8, {50, 64}, std::string(3200, '\1')});
  tensors.push_back({"lm_head.weight_scale", DType::kF32, {50}, scales(2.0F)});
  Json config = testing::transformers_config("sdar", "SDARForCausalLM");
  config["tie_word_embeddings"] = true;
  testing::write_model(folder_ / "t", config, tensors);
  EXPECT_THROW(load_model(folder_ / "t"), Error);
}

TEST_F(ConfigLimits, AStoredGroupSizeThatIsNoneIsABadFile) {
  Json config = testing::transformers_config("sdar", "SDARForCausalLM");
  config["quantization_config"] = {
      {"quant_method", "diffulex_edge"}, {"dtype", "int4"}, {"mode", "weight_only"}, {"group_size", 7}};
  testing::write_model(folder_ / "t", config, testing::qwen3_tensors(true));
  const Model model = load_model(folder_ / "t");
  testing::expect_error(ErrorCode::kBadFile, {}, [&] { quantize_model(model, default_quantization_config(model)); });
}

TEST_F(ConfigLimits, HiddenSizeIsAMultipleOfTheHeads) {
  Json config = testing::transformers_config("Dream", "DreamModel");
  config.erase("head_dim");
  config["hidden_size"] = 66;
  testing::expect_error(ErrorCode::kBadFile, {"66", "4 attention heads"}, [&] { read(config); });
}

}  // namespace
}  // namespace diffulex_edge
