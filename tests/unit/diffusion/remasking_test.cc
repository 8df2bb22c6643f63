#include "diffusion/remasking.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "diffusion/schedule.h"

namespace diffulex_edge {
namespace {

using Places = std::set<std::size_t>;

std::vector<SampleOutput> with_confidences(const std::vector<double>& confidences) {
  std::vector<SampleOutput> samples;
  for (const double confidence : confidences) {
    samples.push_back({.token = 1, .confidence = confidence});
  }
  return samples;
}

Places chosen(const SelectionRule& rule, const std::vector<SampleOutput>& samples, const StepShare& share,
              std::uint64_t seed = 0) {
  Random random(seed);
  const std::vector<std::size_t> places = select(rule, samples, share, random);
  return {places.begin(), places.end()};
}

const std::vector<SampleOutput> kSamples = with_confidences({0.3, 0.9, 0.5, 0.9, 0.1});

TEST(Select, TakesTheShareOfTheBest) {
  EXPECT_EQ(chosen({}, kSamples, {.tokens = 1}), (Places{1})) << "the first of equal ones";
  EXPECT_EQ(chosen({}, kSamples, {.tokens = 3}), (Places{1, 2, 3}));
  EXPECT_EQ(chosen({}, kSamples, {.tokens = 9}), (Places{0, 1, 2, 3, 4}));
  EXPECT_EQ(chosen({}, kSamples, {.tokens = 0}), Places());
  EXPECT_EQ(chosen({.selection = Selection::kSequential}, kSamples, {.tokens = 2}), (Places{0, 1}));
}

TEST(Select, TakesAllFromAThresholdOnAndAlwaysTheBest) {
  const SelectionRule rule{.selection = Selection::kThreshold, .threshold = 0.5};
  EXPECT_EQ(chosen(rule, kSamples, {}), (Places{1, 2, 3}));
  EXPECT_EQ(chosen({.selection = Selection::kThreshold, .threshold = 0.95}, kSamples, {}), (Places{1}));
  EXPECT_EQ(chosen(rule, kSamples, {.most = 2}), (Places{1, 3}));
}

TEST(Select, TakesAllAboveAThresholdOrTheShare) {
  const SelectionRule rule{.selection = Selection::kAboveThreshold, .threshold = 0.5};
  EXPECT_EQ(chosen(rule, kSamples, {.tokens = 1}), (Places{1, 3})) << "0.5 itself is not above";
  EXPECT_EQ(chosen(rule, kSamples, {.tokens = 3}), (Places{1, 2, 3}));
  EXPECT_EQ(chosen({.selection = Selection::kAboveThreshold, .threshold = 1.0}, kSamples, {}), (Places{1}));
}

TEST(Select, TakesTheNBestWhileTheNthIsSureEnough) {
  // The second needs 1 - 0.3/3 = 0.9, the third 1 - 0.3/4 = 0.925.
  EXPECT_EQ(chosen({.selection = Selection::kFactor, .factor = 0.3}, kSamples, {}), (Places{1, 3}));
  EXPECT_EQ(chosen({.selection = Selection::kFactor, .factor = 2.0}, kSamples, {}), (Places{1, 2, 3}));
  EXPECT_EQ(chosen({.selection = Selection::kFactor, .factor = 0.0}, kSamples, {}), (Places{1}));
}

TEST(Select, BoundsTheSumOfEntropies) {
  std::vector<SampleOutput> samples = with_confidences({0.9, 0.8, 0.7, 0.6});
  samples[0].entropy = 0.2;
  samples[1].entropy = 0.5;  // sum 0.7, without the largest 0.2
  samples[2].entropy = 0.4;  // 1.1, 0.6
  samples[3].entropy = 0.9;  // 2.0, 1.1
  const auto bounded = [&](double bound, bool is_last = false) {
    return chosen({.selection = Selection::kEntropyBounded, .entropy_bound = bound}, samples, {.is_last = is_last});
  };
  EXPECT_EQ(bounded(0.0), (Places{0}));
  EXPECT_EQ(bounded(0.2), (Places{0, 1}));
  EXPECT_EQ(bounded(0.65), (Places{0, 1, 2}));
  EXPECT_EQ(bounded(1.2), (Places{0, 1, 2, 3}));
  EXPECT_EQ(bounded(0.0, true), (Places{0, 1, 2, 3}));
}

TEST(Select, TakesEachWithTheProbability) {
  int taken = 0;
  for (std::uint64_t seed = 0; seed < 4000; ++seed) {
    taken += static_cast<int>(chosen({.selection = Selection::kEach}, kSamples, {.probability = 0.3}, seed).size());
  }
  EXPECT_NEAR(taken / 20'000.0, 0.3, 0.01);
  EXPECT_EQ(chosen({.selection = Selection::kEach}, kSamples, {.probability = 1.0}).size(), 5U);
}

TEST(Select, DrawsPlacesFromTheSoftmaxOfConfidences) {
  // exp(c / 0.5): the first is drawn with these probabilities.
  const std::vector<SampleOutput> samples = with_confidences({0.0, 0.5, 1.0});
  std::map<std::size_t, int> counts;
  constexpr int kDraws = 20'000;
  for (std::uint64_t seed = 0; seed < kDraws; ++seed) {
    ++counts[*chosen({.alg_temp = 0.5}, samples, {.tokens = 1}, seed * 31U).begin()];
  }
  const double sum = 1.0 + std::exp(1.0) + std::exp(2.0);
  double chi_squared = 0.0;
  for (std::size_t i = 0; i < 3; ++i) {
    const double wanted = kDraws * std::exp(static_cast<double>(i)) / sum;
    chi_squared += (counts[i] - wanted) * (counts[i] - wanted) / wanted;
  }
  EXPECT_LT(chi_squared, 13.8) << "two degrees of freedom, probability 0.999";
}

TEST(Schedule, SharesEvenly) {
  std::vector<std::int64_t> shares;
  for (std::int64_t step = 0; step < 4; ++step) {
    shares.push_back(even_share(10, 4, step));
  }
  EXPECT_EQ(shares, (std::vector<std::int64_t>{3, 3, 2, 2}));
  EXPECT_EQ(even_share(2, 4, 2), 0);
}

// int(masks * (1 - s / t)) with times of torch.linspace(1, 1e-3, steps + 1), as PyTorch 2.13 computed them.
TEST(Schedule, FollowsDreamsTimes) {
  std::int64_t masks = 32;
  std::vector<std::int64_t> shares;
  for (std::int64_t step = 0; step < 5; ++step) {
    shares.push_back(time_share(masks, 5, step, 1e-3));
    masks -= shares.back();
  }
  EXPECT_EQ(shares, (std::vector<std::int64_t>{6, 6, 6, 6, 8}));
  EXPECT_EQ(commit_probability(5, 4, 1e-3), 1.0F);
}

}  // namespace
}  // namespace diffulex_edge
