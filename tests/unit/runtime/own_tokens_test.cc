#include "runtime/own_tokens.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "support/reference_decoder.h"
#include "support/temporary_folder.h"
#include "support/tiny_model.h"

namespace diffulex_edge {
namespace {

using testing::ReferenceDecoder;

class OwnTokensTest : public ::testing::Test {
 protected:
  Model load(const std::string& family, const ModelOptions& options = {}) {
    const ReferenceDecoder reference = testing::reference_decoder(family, false);
    testing::write_model(folder_.path() / family, reference.config, reference.tensors());
    return load_model(folder_.path() / family, options);
  }

  testing::TemporaryFolder folder_;
};

RunControl with_threads(int threads) { return {.threads = threads, .stop = {}, .on_progress = {}}; }

TEST_F(OwnTokensTest, AreInTheVocabularyAndNeverTheMask) {
  constexpr std::int64_t kMask = 7;
  for (const char* family : {"llada", "dream", "sdar", "fast_dllm_v2"}) {
    const Model model = load(family, {.mask_token_id = kMask});
    const TokenSequences made = make_own_tokens(model, {.sequences = 5, .length = 40}, with_threads(1));
    ASSERT_EQ(made.size(), 5U);
    for (const auto& sequence : made) {
      ASSERT_EQ(sequence.size(), 40U);
      EXPECT_TRUE(std::ranges::all_of(sequence, [&](std::int64_t id) {
        return id >= 0 && id < model.config.vocab_size && id != kMask;
      })) << family;
    }
  }
}

TEST_F(OwnTokensTest, DependOnTheSeedAndNotOnThreads) {
  const Model model = load("llama");
  const OwnTokensOptions options{.sequences = 4, .length = 30, .seed = 2};
  const TokenSequences made = make_own_tokens(model, options, with_threads(1));
  EXPECT_EQ(made, make_own_tokens(model, options, with_threads(3)));
  EXPECT_NE(made, make_own_tokens(model, {.sequences = 4, .length = 30, .seed = 3}, with_threads(1)));
}

// Of an autoregressive model, the second token's distribution is that of the model after the first.
TEST_F(OwnTokensTest, AreSamplesOfTheModelsPredictions) {
  constexpr int kSequences = 1500;
  const Model model = load("llama");
  const auto vocab = static_cast<std::size_t>(model.config.vocab_size);
  const TokenSequences made = make_own_tokens(model, {.sequences = kSequences, .length = 2}, with_threads(2));
  double expected_log = 0.0;
  double found_log = 0.0;
  std::map<std::int64_t, std::vector<double>> log_probabilities;
  for (const auto& sequence : made) {
    auto& row = log_probabilities[sequence[0]];
    if (row.empty()) {
      const std::vector<float> logits = forward(model, {{sequence[0]}})[0];
      double sum = 0.0;
      for (const float logit : logits) {
        sum += std::exp(static_cast<double>(logit));
      }
      for (const float logit : logits) {
        row.push_back(static_cast<double>(logit) - std::log(sum));
      }
    }
    found_log += row[static_cast<std::size_t>(sequence[1])];
    for (std::size_t token = 0; token < vocab; ++token) {
      expected_log += std::exp(row[token]) * row[token];
    }
  }
  // The mean log probability of samples is minus the entropy; of uniform tokens it is much less.
  EXPECT_NEAR(found_log / kSequences, expected_log / kSequences, 0.1);
  EXPECT_GT(expected_log / kSequences, -std::log(static_cast<double>(vocab)) + 0.2);
}

}  // namespace
}  // namespace diffulex_edge
