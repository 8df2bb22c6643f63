#include "runtime/diffusion_states.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "diffulex_edge/error.h"
#include "diffulex_edge/evaluation.h"
#include "models/logit_positions.h"
#include "support/expect_error.h"

namespace diffulex_edge {
namespace {

constexpr std::int64_t kMask = 99;

ModelConfig config_of(const std::string& family, std::int64_t block_length) {
  ModelConfig config;
  config.family = family;
  config.block_length = block_length;
  config.mask_token_id = kMask;
  return config;
}

std::vector<std::int64_t> tokens(std::size_t count) {
  std::vector<std::int64_t> ids(count);
  std::iota(ids.begin(), ids.end(), std::int64_t{1});
  return ids;
}

std::int64_t count_masked(const DiffusionState& state) { return std::ranges::count(state.input, kMask); }

TEST(DiffusionStates, MaskTheAskedShareAndRememberTheTruth) {
  Random random(1);
  const auto ids = tokens(40);
  for (const double ratio : {0.0, 0.15, 0.5, 1.0}) {
    const DiffusionState state = mask_tokens(config_of("llada", 0), ids, ratio, random);
    EXPECT_EQ(count_masked(state), std::max<std::int64_t>(1, std::lround(ratio * 40)));
    for (std::size_t i = 0; i < ids.size(); ++i) {
      EXPECT_EQ(state.masked[i], state.input[i] == kMask);
      EXPECT_EQ(state.input[i], state.masked[i] ? kMask : ids[i]);
      EXPECT_EQ(state.target[i], state.masked[i] ? ids[i] : kIgnoredTarget);
    }
  }
}

TEST(DiffusionStates, PredictFromThePositionBeforeWhereTheFamilyDoes) {
  Random random(2);
  const auto ids = tokens(20);
  const DiffusionState state = mask_tokens(config_of("dream", 0), ids, 0.5, random);
  EXPECT_FALSE(state.masked[0]);
  for (std::size_t i = 1; i < ids.size(); ++i) {
    EXPECT_EQ(state.target[i - 1], state.masked[i] ? ids[i] : kIgnoredTarget);
  }
}

TEST(DiffusionStates, EndWithOneMaskedBlockWhereTheModelIsBlockCausal) {
  Random random(3);
  const auto ids = tokens(22);
  for (int i = 0; i < 50; ++i) {
    const DiffusionState state = mask_tokens(config_of("sdar", 4), ids, 1.0, random);
    const std::size_t length = state.input.size();
    ASSERT_TRUE(length % 4 == 0 || length == 22);
    const std::size_t begin = (length - 1) / 4 * 4;
    for (std::size_t position = 0; position < length; ++position) {
      EXPECT_EQ(state.masked[position], position >= begin);
    }
  }
}

TEST(DiffusionStates, AreTheSameForTheSameSeed) {
  Random a(7);
  Random b(7);
  const ModelConfig config = config_of("fast_dllm_v2", 8);
  for (const std::size_t length : {std::size_t{2}, std::size_t{9}, std::size_t{100}}) {
    const DiffusionState first = mask_tokens(config, tokens(length), 0.4, a);
    EXPECT_EQ(first.input, mask_tokens(config, tokens(length), 0.4, b).input);
    EXPECT_GE(count_masked(first), 1);
  }
}

TEST(DiffusionStates, NeedAMaskToken) {
  ModelConfig config = config_of("llada", 0);
  config.mask_token_id.reset();
  Random random(1);
  testing::expect_error(ErrorCode::kInvalidArgument, {"mask token", "--mask-token-id"},
                        [&] { mask_tokens(config, tokens(4), 0.5, random); });
}

TEST(DiffusionStates, OfAutoregressiveModelsPredictTheNextToken) {
  const DiffusionState state = next_tokens(tokens(4));
  EXPECT_EQ(state.input, (std::vector<std::int64_t>{1, 2, 3}));
  EXPECT_EQ(state.target, (std::vector<std::int64_t>{2, 3, 4}));
  EXPECT_TRUE(is_autoregressive(config_of("llama", 1)));
  EXPECT_FALSE(is_autoregressive(config_of("sdar", 4)));
}

}  // namespace
}  // namespace diffulex_edge
