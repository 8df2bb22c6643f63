#include "runtime/observer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "diffulex_edge/error.h"
#include "quant/affine_scale.h"
#include "support/expect_error.h"

namespace diffulex_edge {
namespace {

// A thousand normal values and one far away.
std::vector<float> with_an_outlier() {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal(0.5F, 1.0F);
  std::vector<float> values(1000);
  for (float& value : values) {
    value = normal(generator);
  }
  values.push_back(40.0F);
  return values;
}

double squared_error(const std::vector<float>& values, const ActivationRange& range) {
  const AffineScale affine = affine_scale(range, 8);
  double error = 0.0;
  for (const float value : values) {
    const double q =
        std::clamp(std::nearbyint(static_cast<double>(value) / affine.scale) + affine.zero_point, -128.0, 127.0);
    error += std::pow((q - affine.zero_point) * affine.scale - value, 2);
  }
  return error;
}

TEST(Observer, MinMaxCoversEverything) {
  const auto values = with_an_outlier();
  const ActivationRange range = observe(values, Observer::MIN_MAX, 0.0);
  EXPECT_EQ(range.max, 40.0F);
  EXPECT_EQ(range.min, *std::ranges::min_element(values));
}

TEST(Observer, PercentileLeavesOutTheOutermost) {
  const ActivationRange range = observe(with_an_outlier(), Observer::PERCENTILE, 99.0);
  EXPECT_LT(range.max, 5.0F);
  EXPECT_GT(range.max, 2.0F);
  EXPECT_EQ(observe(with_an_outlier(), Observer::PERCENTILE, 100.0).max, 40.0F);
}

TEST(Observer, MseHasTheLeastError) {
  const auto values = with_an_outlier();
  const ActivationRange full = observe(values, Observer::MIN_MAX, 0.0);
  const ActivationRange best = observe(values, Observer::MSE, 0.0);
  EXPECT_LE(squared_error(values, best), squared_error(values, full));
  // Without the outlier there is more to win by clipping a heavy tail than by keeping it.
  std::vector<float> heavy;
  for (int i = 1; i <= 2000; ++i) {
    heavy.push_back(std::pow(static_cast<float>(i) / 2000.0F, 30.0F) * (i % 2 == 0 ? 8.0F : -8.0F));
  }
  EXPECT_LE(squared_error(heavy, observe(heavy, Observer::MSE, 0.0)),
            squared_error(heavy, observe(heavy, Observer::MIN_MAX, 0.0)));
}

TEST(Observer, AlwaysIncludesZero) {
  for (const Observer observer : {Observer::MIN_MAX, Observer::PERCENTILE, Observer::MSE}) {
    const ActivationRange range = observe(std::vector<float>{2.0F, 3.0F, 4.0F}, observer, 99.0);
    EXPECT_EQ(range.min, 0.0F);
    EXPECT_GE(range.max, 2.0F);
    const ActivationRange zero = observe(std::vector<float>{0.0F, 0.0F}, observer, 99.0);
    EXPECT_EQ(zero.min, 0.0F);
    EXPECT_EQ(zero.max, 0.0F);
  }
}

TEST(Observer, RefusesWhatIsNotFinite) {
  testing::expect_error(ErrorCode::kBadFile, {"not finite"},
                        [] { observe(std::vector<float>{1.0F, NAN}, Observer::MIN_MAX, 0.0); });
}

TEST(Observer, HasNames) {
  for (const Observer observer : {Observer::MIN_MAX, Observer::PERCENTILE, Observer::MSE}) {
    EXPECT_EQ(parse_observer(to_string(observer)), observer);
  }
  testing::expect_error(ErrorCode::kInvalidArgument, {"min_max, percentile, mse"}, [] { parse_observer("best"); });
}

}  // namespace
}  // namespace diffulex_edge
