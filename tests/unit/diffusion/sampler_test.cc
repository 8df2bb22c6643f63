#include "diffusion/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>

namespace diffulex_edge {
namespace {

using Logits = std::vector<float>;

// Probabilities 0.5, 0.25, 0.15, 0.1.
Logits four() { return {std::log(0.5F), std::log(0.25F), std::log(0.15F), std::log(0.1F)}; }

SampleOutput sample(const SamplerSettings& settings, Logits logits, std::uint64_t seed = 0,
                    const std::vector<std::int64_t>& present = {}) {
  return DiffusionSampler(settings).sample(logits, present, Random(seed));
}

TEST(DiffusionSampler, TakesTheMostProbableTokenWithItsProbability) {
  const SampleOutput output = sample({}, four());
  EXPECT_EQ(output.token, 0);
  EXPECT_NEAR(output.confidence, 0.5, 1e-6);
  EXPECT_EQ(sample({}, {1.0F, 3.0F, 3.0F}).token, 1) << "the first of equal ones";
}

TEST(DiffusionSampler, KnowsFourConfidences) {
  EXPECT_NEAR(sample({.confidence = Confidence::kMargin}, four()).confidence, 0.25, 1e-6);
  const double entropy = 0.5 * std::log(0.5) + 0.25 * std::log(0.25) + 0.15 * std::log(0.15) + 0.1 * std::log(0.1);
  EXPECT_NEAR(sample({.confidence = Confidence::kEntropy}, four()).confidence, entropy, 1e-6);
  EXPECT_NEAR(sample({.wants_entropy = true}, four()).entropy, -entropy, 1e-6);
  const double drawn = sample({.confidence = Confidence::kRandom}, four(), 1).confidence;
  EXPECT_NE(drawn, sample({.confidence = Confidence::kRandom}, four(), 2).confidence);
}

TEST(DiffusionSampler, FiltersBeforeItsConfidence) {
  EXPECT_NEAR(sample({.top_k = 2}, four()).confidence, 0.5 / 0.75, 1e-6);
  EXPECT_NEAR(sample({.top_p = 0.6}, four()).confidence, 0.5 / 0.75, 1e-6) << "the token that passes p stays";
  EXPECT_NEAR(sample({.top_p = 0.0}, four()).confidence, 1.0, 1e-6);
  EXPECT_NEAR(sample({.min_p = 0.3}, four()).confidence, 0.5 / 0.9, 1e-6);
  EXPECT_NEAR(sample({.top_k = 2, .confidence_before_filters = true}, four()).confidence, 0.5, 1e-6);
  // Top-k of 3 leaves 0.9, of which the first two have 0.833; top-p first keeps three of four.
  EXPECT_NEAR(sample({.top_k = 3, .top_p = 0.8}, four()).confidence, 0.5 / 0.75, 1e-6);
  EXPECT_NEAR(sample({.top_k = 3, .top_p = 0.8, .top_p_first = true}, four()).confidence, 0.5 / 0.9, 1e-6);
}

TEST(DiffusionSampler, PenalizesNeverWritesAndPostpones) {
  EXPECT_EQ(sample({.repetition_penalty = 2.0}, {4.0F, 3.0F, -1.0F}, 0, {0}).token, 1);
  EXPECT_EQ(sample({.repetition_penalty = 2.0}, {-2.0F, -1.5F}, 0, {1}).token, 0);
  EXPECT_EQ(sample({.never = {0, 1}}, four()).token, 2);
  EXPECT_NEAR(sample({.never = {0}}, four()).confidence, 0.5, 1e-6) << "of what is left";
  const SampleOutput postponed = sample({.last = {0, 3}}, four());
  EXPECT_EQ(postponed.token, 0);
  EXPECT_EQ(postponed.confidence, 0.0);
  EXPECT_NEAR(sample({.last = {1, 3}}, four()).confidence, 0.5 / 0.65, 1e-6) << "as the published program has it";
}

TEST(DiffusionSampler, NeverWritesTheMask) {
  const SampleOutput output = sample({.mask = 0}, four());
  EXPECT_EQ(output.token, 1);
  EXPECT_NEAR(output.confidence, 0.25, 1e-6) << "the mask has its part in the probabilities";
  EXPECT_EQ(sample({.top_k = 1, .mask = 0}, four()).token, 1);
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    EXPECT_NE(sample({.temperature = 1.0, .mask = 0}, four(), seed).token, 0);
  }
}

TEST(DiffusionSampler, ConfidenceOfGumbelNoiseIsWithoutTemperature) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const SampleOutput output = sample({.temperature = 3.0, .gumbel = true}, four(), seed);
    EXPECT_NEAR(output.confidence, std::exp(four()[static_cast<std::size_t>(output.token)]), 1e-6);
  }
}

// The chi-squared statistic of 20,000 draws against probabilities: below 16.3 for three degrees of freedom with
// probability 0.999, for these seeds once and for all.
double chi_squared(const SamplerSettings& settings, const std::vector<double>& expected) {
  constexpr int kDraws = 20'000;
  std::vector<int> counts(expected.size());
  for (int i = 0; i < kDraws; ++i) {
    ++counts[static_cast<std::size_t>(sample(settings, four(), static_cast<std::uint64_t>(i) * 7919U).token)];
  }
  double sum = 0.0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (expected[i] == 0.0) {
      EXPECT_EQ(counts[i], 0);
    } else {
      const double wanted = expected[i] * kDraws;
      sum += (counts[i] - wanted) * (counts[i] - wanted) / wanted;
    }
  }
  return sum;
}

std::vector<double> powered(double temperature) {
  std::vector<double> p;
  for (const float logit : four()) {
    p.push_back(std::exp(static_cast<double>(logit) / temperature));
  }
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& x : p) {
    x /= sum;
  }
  return p;
}

TEST(DiffusionSampler, DrawsFromTheDistribution) {
  for (const bool gumbel : {false, true}) {
    // Gumbel noise to the power T draws from the softmax of logits / T, as dividing logits does.
    EXPECT_LT(chi_squared({.temperature = 1.0, .gumbel = gumbel}, {0.5, 0.25, 0.15, 0.1}), 16.3);
    EXPECT_LT(chi_squared({.temperature = 0.5, .gumbel = gumbel}, powered(0.5)), 16.3);
    EXPECT_LT(chi_squared({.temperature = 2.0, .gumbel = gumbel}, powered(2.0)), 16.3);
    EXPECT_LT(chi_squared({.temperature = 1.0, .top_k = 2, .gumbel = gumbel}, {2.0 / 3, 1.0 / 3, 0, 0}), 16.3);
    EXPECT_LT(chi_squared({.temperature = 1.0, .top_p = 0.8, .gumbel = gumbel}, {0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0}),
              16.3);
  }
  EXPECT_GT(chi_squared({.temperature = 0.9}, {0.5, 0.25, 0.15, 0.1}), 16.3) << "the test can fail";
}

}  // namespace
}  // namespace diffulex_edge
