#include "runtime/estimate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace diffulex_edge {
namespace {

TEST(Estimate, WeighsTokensOrSequences) {
  const std::vector<SequenceSum> sequences = {{.sum = 2.0, .count = 1.0}, {.sum = 3.0, .count = 3.0}};
  EXPECT_DOUBLE_EQ(ratio_estimate(sequences).mean, 5.0 / 4.0);
  EXPECT_DOUBLE_EQ(mean_estimate(sequences).mean, 1.5);
}

TEST(Estimate, OfEqualCountsHasTheIntervalOfAMean) {
  // Means 1, 2, 3: standard deviation 1, standard error 1 / sqrt(3).
  const std::vector<SequenceSum> sequences = {
      {.sum = 2.0, .count = 2.0}, {.sum = 4.0, .count = 2.0}, {.sum = 6.0, .count = 2.0}};
  for (const Estimate& estimate : {ratio_estimate(sequences), mean_estimate(sequences)}) {
    EXPECT_DOUBLE_EQ(estimate.mean, 2.0);
    EXPECT_NEAR(estimate.high - estimate.mean, 1.96 / std::sqrt(3.0), 1e-12);
    EXPECT_NEAR(estimate.mean - estimate.low, 1.96 / std::sqrt(3.0), 1e-12);
  }
}

TEST(Estimate, OfOneSequenceKnowsNothingOfItsError) {
  const std::vector<SequenceSum> sequences = {{.sum = 2.0, .count = 2.0}};
  EXPECT_TRUE(std::isinf(ratio_estimate(sequences).high));
}

}  // namespace
}  // namespace diffulex_edge
