#include "runtime/layer_statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "quant/affine_scale.h"
#include "support/expect_error.h"

namespace diffulex_edge {
namespace {

constexpr std::int64_t kWidth = 512;

// Normal values; each token has its size.
Activations tokens(const std::vector<float>& sizes) {
  std::mt19937 generator(7);
  std::normal_distribution<float> normal;
  Activations x{.rows = static_cast<std::int64_t>(sizes.size()), .width = kWidth, .data = {}};
  for (const float size : sizes) {
    for (std::int64_t i = 0; i < kWidth; ++i) {
      x.data.push_back(size * normal(generator));
    }
  }
  return x;
}

// 10 log10(signal / error) with the integers of one scale, by the definition.
double decibels(std::span<const float> values, const AffineScale& affine) {
  double signal = 0.0;
  double error = 0.0;
  for (const float value : values) {
    const double q =
        std::clamp(std::nearbyint(static_cast<double>(value) / affine.scale) + affine.zero_point, -128.0, 127.0);
    error += std::pow((q - affine.zero_point) * affine.scale - value, 2);
    signal += std::pow(value, 2);
  }
  return 10.0 * std::log10(signal / error);
}

TEST(LayerStatistics, StaticNoiseIsThatOfTheChosenScale) {
  const Activations x = tokens({1.0F, 1.0F, 30.0F, 30.0F});
  const LayerStatistics statistics = measure_input("q", x, {true, true, false, false}, {}, {});
  const AffineScale affine = affine_scale(statistics.chosen.input, 8);
  const std::span<const float> values(x.data);
  EXPECT_NEAR(statistics.masked.static_scale_db, decibels(values.first(2 * kWidth), affine), 0.05);
  EXPECT_NEAR(statistics.unmasked.static_scale_db, decibels(values.last(2 * kWidth), affine), 0.05);
}

TEST(LayerStatistics, ScalesForEachTokenKeepSmallTokensAsPreciseAsLargeOnes) {
  const LayerStatistics statistics =
      measure_input("q", tokens({1.0F, 1.0F, 30.0F, 30.0F}), {true, true, false, false}, {}, {});
  EXPECT_NEAR(statistics.masked.token_scales_db, statistics.unmasked.token_scales_db, 2.0);
  EXPECT_GT(statistics.masked.token_scales_db, 35.0);
  EXPECT_LT(statistics.masked.static_scale_db, statistics.masked.token_scales_db - 20.0);
}

TEST(LayerStatistics, HasNoFigureWithoutTokensOrSignal) {
  const LayerStatistics statistics = measure_input("q", tokens({1.0F, 0.0F}), {false, true}, {}, {});
  EXPECT_TRUE(std::isnan(statistics.masked.static_scale_db));
  EXPECT_TRUE(std::isnan(statistics.masked.token_scales_db));
  EXPECT_EQ(statistics.masked.rms, 0.0);
  EXPECT_TRUE(std::isfinite(statistics.unmasked.static_scale_db));
}

TEST(LayerStatistics, DoesNotDependOnThreads) {
  const Activations x = tokens(std::vector<float>(200, 1.0F));
  std::vector<bool> masked(200);
  for (std::size_t i = 0; i < masked.size(); i += 3) {
    masked[i] = true;
  }
  const LayerStatistics one = measure_input("q", x, masked, {}, {.threads = 1});
  const LayerStatistics three = measure_input("q", x, masked, {}, {.threads = 3});
  EXPECT_EQ(one.masked.static_scale_db, three.masked.static_scale_db);
  EXPECT_EQ(one.unmasked.token_scales_db, three.unmasked.token_scales_db);
  EXPECT_EQ(one.unmasked.rms, three.unmasked.rms);
}

TEST(LayerStatistics, NamesTheLayerOfAValueThatIsNotFinite) {
  Activations x = tokens({1.0F});
  x.data[3] = INFINITY;
  testing::expect_error(ErrorCode::kBadFile, {"layers.0.q_proj", "not finite"},
                        [&] { measure_input("layers.0.q_proj", x, {false}, {}, {}); });
}

}  // namespace
}  // namespace diffulex_edge
