#include "quant/scale_search.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "diffulex_edge/error.h"
#include "quant/kernels/kernels.h"
#include "support/expect_error.h"
#include "support/formats.h"

namespace diffulex_edge {
namespace {

const WeightFormat kFormats[] = {int8_per_channel(), int4_per_channel(), int4_groups(32, ElementType::kBF16),
                                 int4_groups(256, ElementType::kBF16)};
constexpr RoundingMethod kSearches[] = {RoundingMethod::MSE, RoundingMethod::HQQ};

std::vector<float> random_weights(std::size_t count, unsigned seed = 3) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0F, 0.02F);
  std::vector<float> weights(count);
  for (float& weight : weights) {
    weight = normal(generator) * (generator() % 50 == 0 ? 4.0F : 1.0F);
  }
  return weights;
}

float find(RoundingMethod method, const std::vector<float>& weights, const WeightFormat& format,
           const std::vector<float>& importance = {}) {
  ScaleSearch search;
  return search.find(method, weights, importance, integer_grid(format));
}

double lp_error(const std::vector<float>& weights, float scale, const IntegerGrid& grid) {
  double sum = 0.0;
  for (const float weight : weights) {
    sum += std::pow(std::fabs(weight - nearest_integer(weight, scale, grid) * scale), 0.7);
  }
  return sum;
}

bool is_storable(float scale, const WeightFormat& format) {
  return std::isnormal(scale) && scale > 0.0F && storable_scale(scale, format.scale_type) == scale;
}

TEST(ScaleSearch, IsNeverWorseThanRoundToNearestInTheErrorItMinimizes) {
  int better = 0;
  for (const WeightFormat& format : kFormats) {
    const IntegerGrid grid = integer_grid(format);
    for (unsigned seed = 0; seed < 50; ++seed) {
      const auto weights = random_weights(256, seed);
      const float nearest = find(RoundingMethod::RTN, weights, format);
      const float mse = find(RoundingMethod::MSE, weights, format);
      const float hqq = find(RoundingMethod::HQQ, weights, format);
      const double error = squared_error(weights, {}, mse, grid);
      EXPECT_LE(error, squared_error(weights, {}, nearest, grid)) << to_string(format);
      EXPECT_LE(lp_error(weights, hqq, grid), lp_error(weights, nearest, grid)) << to_string(format);
      EXPECT_TRUE(is_storable(mse, format) && is_storable(hqq, format));
      better += error < 0.95 * squared_error(weights, {}, nearest, grid) ? 1 : 0;
    }
  }
  EXPECT_GT(better, 100);
}

// Every bfloat16 in the range is tried: no scale of that type is better.
TEST(ScaleSearch, MseFindsTheBestBfloat16) {
  const WeightFormat format = int4_groups(32, ElementType::kBF16);
  const IntegerGrid grid = integer_grid(format);
  for (unsigned seed = 0; seed < 20; ++seed) {
    const auto weights = random_weights(32, seed);
    const double found = squared_error(weights, {}, find(RoundingMethod::MSE, weights, format), grid);
    const float nearest = find(RoundingMethod::RTN, weights, format);
    for (float scale = nearest * 0.51F; scale < nearest * 1.14F; scale *= 1.001F) {
      EXPECT_GE(squared_error(weights, {}, storable_scale(scale, ElementType::kBF16), grid), found * (1.0 - 1e-4));
    }
  }
}

TEST(ScaleSearch, WeighsErrorsByImportance) {
  std::vector<float> weights(32, 0.1F);
  weights[0] = 1.0F;  // clipping it lets the others be exact
  std::vector<float> importance(32, 1.0F);
  const WeightFormat format = int4_groups(32, ElementType::kBF16);
  const IntegerGrid grid = integer_grid(format);
  importance[0] = 1e4F;
  const float careful = find(RoundingMethod::MSE, weights, format, importance);
  importance[0] = 0.0F;
  const float careless = find(RoundingMethod::MSE, weights, format, importance);
  EXPECT_NEAR(nearest_integer(1.0F, careful, grid) * careful, 1.0F, 0.004F);
  EXPECT_NEAR(nearest_integer(0.1F, careless, grid) * careless, 0.1F, 0.0002F);
}

TEST(ScaleSearch, KeepsWeightsThatTheFormatHoldsExactly) {
  for (const RoundingMethod method : kSearches) {
    for (const WeightFormat& format : kFormats) {
      const IntegerGrid grid = integer_grid(format);
      // Where HQQ starts, INT8 has no use for -128.
      const float least = method == RoundingMethod::HQQ ? std::max(grid.low, -127.0F) : grid.low;
      for (const float scale : {0.25F, 0.0078125F, 1.5F, 0x1.02p-100F, 0x1.02p+90F}) {
        std::vector<float> weights(256);
        for (std::size_t i = 0; i < weights.size(); ++i) {
          weights[i] = std::max(least, grid.high - static_cast<float>(i)) * scale;
        }
        const float found = find(method, weights, format);
        EXPECT_EQ(squared_error(weights, {}, found, grid), 0.0) << to_string(format) << " " << scale;
      }
    }
  }
}

TEST(ScaleSearch, GivesZerosScaleOneAndConstantsTheirOwn) {
  for (const RoundingMethod method : kSearches) {
    for (const WeightFormat& format : kFormats) {
      EXPECT_EQ(find(method, std::vector<float>(64, 0.0F), format), 1.0F);
      EXPECT_EQ(find(method, std::vector<float>(64, -0.0F), format), 1.0F);
      for (const float constant : {0.7F, -0.7F}) {
        const std::vector<float> weights(64, constant);
        const float scale = find(method, weights, format);
        EXPECT_NEAR(nearest_integer(constant, scale, integer_grid(format)) * scale, constant, 0.003F);
      }
    }
  }
}

TEST(ScaleSearch, TakesWeightsOfEverySize) {
  for (const RoundingMethod method : kSearches) {
    for (const WeightFormat& format : kFormats) {
      const IntegerGrid grid = integer_grid(format);
      for (const int exponent : {-149, -140, -127, -120, -60, 0, 60, 120, 129}) {
        auto weights = random_weights(64);
        for (float& weight : weights) {
          weight = std::clamp(std::ldexp(weight, exponent), -3e38F, 3e38F);
        }
        const float nearest = find(RoundingMethod::RTN, weights, format);
        const float scale = find(method, weights, format);
        EXPECT_TRUE(is_storable(scale, format)) << scale;
        if (method == RoundingMethod::MSE) {
          EXPECT_LE(squared_error(weights, {}, scale, grid), squared_error(weights, {}, nearest, grid));
        }
      }
    }
  }
}

TEST(ScaleSearch, RefusesMethodsThatNeedCalibration) {
  testing::expect_error(ErrorCode::kUnsupported, {"gptq", "calibration"},
                        [] { find(RoundingMethod::GPTQ, {1.0F, 2.0F}, int4_per_channel()); });
}

TEST(NearestInteger, RoundsTiesToEvenAsTheKernelsDo) {
  const auto weights = random_weights(4096);
  std::vector<std::int8_t> expected(weights.size());
  kernels::f32_to_i8_rtn(weights.data(), expected.data(), weights.size(), 0.0003F);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    EXPECT_EQ(nearest_integer(weights[i], 0.0003F, integer_grid(int8_per_channel())), expected[i]);
  }
  EXPECT_EQ(nearest_integer(2.5F, 1.0F, integer_grid(int4_per_channel())), 2.0F);
  EXPECT_EQ(nearest_integer(-100.0F, 1.0F, integer_grid(int4_per_channel())), -8.0F);
}

}  // namespace
}  // namespace diffulex_edge
