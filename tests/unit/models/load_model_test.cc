#include <gtest/gtest.h>

#include "diffulex_edge/model.h"
#include "support/expect_error.h"
#include "support/tiny_model.h"

namespace diffulex_edge {
namespace {

using testing::qwen3_tensors;
using testing::TestTensor;

class LoadModel : public ::testing::Test {
 protected:
  Model load(bool tied, const std::vector<TestTensor>& tensors, const ModelOptions& options = {}) {
    nlohmann::json config = testing::transformers_config("sdar", "SDARForCausalLM");
    config["tie_word_embeddings"] = tied;
    config["max_position_embeddings"] = 256;
    testing::write_model(folder_.path(), config, tensors);
    return load_model(folder_.path(), options);
  }
  testing::TemporaryFolder folder_;
};

TEST_F(LoadModel, GivesLogitsForEveryToken) {
  const Model model = load(false, qwen3_tensors(true));
  EXPECT_EQ(to_string(model.graph.shape(model.graph.output())), "[1, seq<=256, 50]");
  EXPECT_EQ(model.graph.output_name(), "logits");
}

TEST_F(LoadModel, RefusesTensorsThatDoNotFitTheConfiguration) {
  auto tensors = qwen3_tensors(true);
  tensors[2] = testing::random_tensor(tensors[2].name, {64, 32}, 1);
  testing::expect_error(ErrorCode::kBadFile, {"q_proj.weight", "[64, 32]", "[64, 64]"}, [&] { load(false, tensors); });
  tensors.erase(tensors.begin() + 2);
  testing::expect_error(ErrorCode::kBadFile, {"no tensor 'model.layers.0.self_attn.q_proj.weight'"},
                        [&] { load(false, tensors); });
}

TEST_F(LoadModel, RefusesTensorsThatTheModelHasNoPlaceFor) {
  auto tensors = qwen3_tensors(true);
  tensors.push_back(testing::random_tensor("model.layers.0.self_attn.q_proj.bias", {64}, 1));
  testing::expect_error(ErrorCode::kUnsupported, {"q_proj.bias", "no place"}, [&] { load(false, tensors); });
}

TEST_F(LoadModel, AcceptsATiedHeadOnlyIfItIsTheEmbedding) {
  auto tensors = qwen3_tensors(true);
  testing::expect_error(ErrorCode::kBadFile, {"lm_head.weight", "differs from the embedding"},
                        [&] { load(true, tensors); });
  tensors.back().bytes = tensors.front().bytes;
  EXPECT_NO_THROW(load(true, tensors));
  EXPECT_NO_THROW(load(true, qwen3_tensors(false)));
  testing::expect_error(ErrorCode::kBadFile, {"no tensor 'lm_head.weight'"},
                        [&] { load(false, qwen3_tensors(false)); });
}

TEST_F(LoadModel, AsksWhetherAModelWithAMaskTokenIsCausal) {
  nlohmann::json config = testing::transformers_config("qwen3", "Qwen3ForCausalLM");
  config["tie_word_embeddings"] = false;
  const auto load_as = [&](std::optional<std::int64_t> block_length) {
    testing::write_model(folder_.path(), config, qwen3_tensors(true));
    return load_model(folder_.path(), {.block_length = block_length});
  };
  EXPECT_EQ(load_as({}).config.block_length, 1);
  config["mask_token_id"] = 5;
  testing::expect_error(ErrorCode::kInvalidArgument,
                        {"config.json", "has a mask_token_id", "Qwen3ForCausalLM", "--block-length 1"},
                        [&] { load_as({}); });
  for (const std::int64_t length : {0, 1, 8}) {
    EXPECT_EQ(load_as(length).config.block_length, length);
  }
}

TEST_F(LoadModel, BoundsTheSequenceLength) {
  const auto tensors = qwen3_tensors(true);
  EXPECT_EQ(
      load(false, tensors, {.seq_len = 7, .block_length = {}, .mask_token_id = {}, .ignored_config_keys = {}}).seq_len,
      7);
  EXPECT_FALSE(
      load(false, tensors, {.seq_len = 300, .block_length = {}, .mask_token_id = {}, .ignored_config_keys = {}})
          .warnings.empty());
  for (const std::int64_t bad : {0, -1, 1 << 21}) {
    testing::expect_error(ErrorCode::kInvalidArgument, {"sequence length"}, [&] {
      load(false, tensors, {.seq_len = bad, .block_length = {}, .mask_token_id = {}, .ignored_config_keys = {}});
    });
  }
}

}  // namespace
}  // namespace diffulex_edge
