#include "quant/palette.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <string>

#include "diffulex_edge/error.h"
#include "quant/kernels/kernels.h"
#include "support/expect_error.h"

namespace diffulex_edge {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

constexpr int kBits = 4;  // where the number does not matter
constexpr int kAllBits[] = {1, 2, 3, 4, 6, 8};

Palette fit(const std::vector<float>& weights, const std::vector<float>& importance = {},
            ElementType type = ElementType::kF32, int bits = kBits) {
  PaletteHistogram histogram(importance);
  histogram.add(weights);
  return histogram.fit(bits, type);
}

// Of weights in rows of importance.size(), each at the value nearest to it.
double squared_error(const std::vector<float>& weights, const Palette& palette,
                     const std::vector<float>& importance = {}) {
  double sum = 0.0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    double least = std::numeric_limits<double>::infinity();
    for (const float value : palette) {
      const double error = static_cast<double>(weights[i]) - static_cast<double>(value);
      least = std::min(least, error * error);
    }
    sum += importance.empty() ? least : least * static_cast<double>(importance[i % importance.size()]);
  }
  return sum;
}

// The least squared error of any 2^bits values, by the plain O(k n^2) dynamic programme.
double least_squared_error(const std::vector<float>& weights, const std::vector<float>& importance = {},
                           int bits = kBits) {
  std::vector<std::size_t> order(weights.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, {}, [&](std::size_t i) { return weights[i]; });
  const std::size_t count = weights.size();
  std::vector<std::vector<double>> cluster(count + 1, std::vector<double>(count + 1, 0.0));
  for (std::size_t end = 1; end <= count; ++end) {
    double weight = 0.0;
    double mean = 0.0;
    double error = 0.0;
    for (std::size_t start = end; start-- > 0;) {
      const std::size_t i = order[start];
      const double factor = importance.empty() ? 1.0 : static_cast<double>(importance[i % importance.size()]);
      if (factor > 0.0) {
        const double distance = static_cast<double>(weights[i]) - mean;
        weight += factor;
        mean += distance * factor / weight;
        error += factor * distance * (static_cast<double>(weights[i]) - mean);
      }
      cluster[start][end] = error;
    }
  }
  std::vector<double> best = cluster[0];
  for (int k = 1; k < (1 << bits); ++k) {
    std::vector<double> next = best;
    for (std::size_t end = 1; end <= count; ++end) {
      for (std::size_t start = 0; start < end; ++start) {
        next[end] = std::min(next[end], best[start] + cluster[start][end]);
      }
    }
    best = next;
  }
  return best[count];
}

std::vector<float> normal_weights(std::size_t count, unsigned seed, float deviation = 0.02F) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0F, deviation);
  std::vector<float> weights(count);
  std::ranges::generate(weights, [&] { return normal(generator); });
  return weights;
}

std::vector<float> in_bfloat16(std::vector<float> weights) {
  for (float& weight : weights) {
    weight = kernels::scalar::bf16_to_f32_one(kernels::scalar::f32_to_bf16_one(weight));
  }
  return weights;
}

// Positive factors over eight decades.
std::vector<float> random_importance(std::size_t columns, unsigned seed) {
  std::vector<float> importance = normal_weights(columns, seed, 4.0F);
  std::ranges::transform(importance, importance.begin(),
                         [](float exponent) { return std::pow(10.0F, std::clamp(exponent, -4.0F, 4.0F)); });
  return importance;
}

// From a byte's low bits to its high ones, bit by bit.
std::vector<unsigned> unpack(const std::vector<std::byte>& packed, std::size_t count, std::size_t bits = kBits) {
  std::vector<unsigned> indices(count);
  for (std::size_t bit = 0; bit < count * bits; ++bit) {
    const unsigned value = (static_cast<unsigned>(packed[bit / 8]) >> (bit % 8)) & 1U;
    indices[bit / bits] |= value << (bit % bits);
  }
  return indices;
}

std::vector<unsigned> assign(const std::vector<float>& values, const Palette& palette) {
  const auto bits = static_cast<std::size_t>(std::countr_zero(palette.size()));
  std::vector<std::byte> packed((values.size() * bits + 7) / 8, std::byte{0xFF});
  assign_palette(values, palette, packed);
  std::vector<float> found(values.size());
  look_up_palette(packed, palette, found);
  const std::vector<unsigned> indices = unpack(packed, values.size(), bits);
  for (std::size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(found[i], palette[indices[i]]) << i;
  }
  return indices;
}

// The first value of least distance. Distances are exact where exponents differ by less than 40.
unsigned nearest_index(float weight, const Palette& palette) {
  unsigned best = 0;
  for (unsigned i = 1; i < palette.size(); ++i) {
    const auto distance = [&](unsigned index) {
      return std::fabs(static_cast<long double>(weight) - static_cast<long double>(palette[index]));
    };
    best = distance(i) < distance(best) ? i : best;
  }
  return best;
}

TEST(PaletteHistogram, FindsTheOptimum) {
  for (unsigned seed = 0; seed < 20; ++seed) {
    const std::vector<float> normal = in_bfloat16(normal_weights(17 + 10 * seed, seed));
    std::vector<float> heavy = normal;  // tails over many octaves
    std::vector<float> positive = normal;
    for (std::size_t i = 0; i < normal.size(); ++i) {
      heavy[i] = std::copysign(std::exp(100.0F * normal[i]), normal[heavy.size() - 1 - i]);
      positive[i] = 1.0F + normal[i];
    }
    for (const auto& weights : {normal, in_bfloat16(heavy), in_bfloat16(positive)}) {
      const double least = least_squared_error(weights);
      EXPECT_NEAR(squared_error(weights, fit(weights)), least, 1e-9 * least) << seed;
    }
  }
}

TEST(PaletteHistogram, FindsTheOptimumWithImportance) {
  for (unsigned seed = 0; seed < 10; ++seed) {
    const std::vector<float> weights = in_bfloat16(normal_weights(240, seed));
    const std::vector<float> importance = random_importance(40, seed + 100);
    const double least = least_squared_error(weights, importance);
    EXPECT_NEAR(squared_error(weights, fit(weights, importance), importance), least, 1e-7 * least) << seed;
    EXPECT_LT(least, squared_error(weights, fit(weights), importance));
  }
}

// As of a massive activation: the one column that counts 2^25 times as much doesn't drown the others.
TEST(PaletteHistogram, FindsTheOptimumBesideAHugeFactor) {
  std::vector<float> weights = in_bfloat16(normal_weights(200, 6));
  std::vector<float> importance = random_importance(10, 7);
  std::ranges::transform(importance, importance.begin(), [](float factor) { return std::clamp(factor, 0.1F, 10.0F); });
  importance[0] = 0x1p25F;
  for (std::size_t i = 0; i < weights.size(); i += 10) {
    weights[i] = 0.5F;
  }
  const double least = least_squared_error(weights, importance);
  EXPECT_NEAR(squared_error(weights, fit(weights, importance), importance), least, 0.01 * least);
}

// One sum over all weights from the left would lose the small ones.
TEST(PaletteHistogram, FindsTheOptimumBesideHugeWeights) {
  std::vector<float> weights = in_bfloat16(normal_weights(300, 5));
  const std::vector<float> others = weights;
  const std::vector<float> outliers = {-0x1p+127F, -0x1p+100F, 0x1p+60F, 0x1p+127F};
  weights.insert(weights.end(), outliers.begin(), outliers.end());
  const Palette palette = fit(weights);
  for (const float outlier : outliers) {
    EXPECT_EQ(std::ranges::count(palette, outlier), 1) << outlier;
  }
  const double least = least_squared_error(weights);  // the outliers' own clusters add nothing
  EXPECT_NEAR(squared_error(others, palette), least, 1e-9 * least);
}

TEST(PaletteHistogram, IsNearTheOptimumOfFloat32) {
  for (unsigned seed = 0; seed < 5; ++seed) {
    const std::vector<float> weights = normal_weights(400, seed);
    const double least = least_squared_error(weights);
    EXPECT_LT(squared_error(weights, fit(weights)), 1.001 * least) << seed;
  }
}

// 0.009497 of the variance: Max 1960, table I.
TEST(PaletteHistogram, ReachesLloydMaxOnNormalWeights) {
  const std::vector<float> weights = normal_weights(std::size_t{1} << 18U, 7);
  const double variance = squared_error(weights, Palette(16)) / static_cast<double>(weights.size());
  for (const ElementType type : {ElementType::kF32, ElementType::kF16}) {
    const double error = squared_error(weights, fit(weights, {}, type)) / static_cast<double>(weights.size());
    EXPECT_NEAR(error / variance, 0.009497, 0.01 * 0.009497);
  }
}

TEST(PaletteHistogram, KeepsFewValuesAndRepeatsTheLast) {
  const Palette three = fit({0.5F, -2.0F, 0.5F, 3.0F});
  EXPECT_EQ(std::vector(three.begin(), three.begin() + 4), std::vector({-2.0F, 0.5F, 3.0F, 3.0F}));
  EXPECT_EQ(three.back(), 3.0F);
  std::vector<float> sixteen(16);
  std::iota(sixteen.begin(), sixteen.end(), -7.0F);
  const Palette all = fit(sixteen);
  EXPECT_EQ(std::vector(all.begin(), all.end()), sixteen);
  for (const float constant : {0.3F, -0.3F, 1e-45F, 3e38F, 0.0F}) {
    for (const float value : fit(std::vector<float>(9, constant))) {
      EXPECT_EQ(value, constant);
    }
  }
  for (const std::vector<float>& zeros : {std::vector<float>{}, {0.0F, -0.0F}, {-0.0F}}) {
    for (const float value : fit(zeros)) {
      EXPECT_EQ(std::bit_cast<std::uint32_t>(value), 0U);
    }
  }
}

TEST(PaletteHistogram, GivesExactMeansOfWhatSharesABin) {
  EXPECT_EQ(fit({0x1.000002p0F, 0x1.000006p0F})[0], 0x1.000004p0F);
  EXPECT_EQ(fit({-0x1.000002p0F, -0x1.000006p0F})[0], -0x1.000004p0F);
  EXPECT_EQ(fit({0x1.000002p0F, 0x1.00000Ap0F})[0], 0x1.000006p0F);
  EXPECT_EQ(fit({0x1.000002p0F, 0x1.00000Ap0F}, {3.0F, 1.0F})[0], 0x1.000004p0F);
  EXPECT_EQ(fit({0x3p-149F, 0x5p-149F})[0], 0x4p-149F);
  EXPECT_EQ(fit({-0x3p-149F, -0x5p-149F})[0], -0x4p-149F);
}

TEST(PaletteHistogram, TakesSubnormalWeights) {
  std::vector<float> weights(200);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    weights[i] = std::bit_cast<float>(static_cast<std::uint32_t>(i * i % 127) << 16U | (i % 2 == 0 ? 0x80000000U : 0U));
  }
  const double least = least_squared_error(weights);
  EXPECT_GT(least, 0.0);
  EXPECT_NEAR(squared_error(weights, fit(weights)), least, 1e-9 * least);
}

TEST(PaletteHistogram, DoesNotDependOnTheOrderOfRowsAndMerges) {
  constexpr std::size_t kColumns = 96;
  constexpr std::size_t kRows = 120;
  const std::vector<float> weights = normal_weights(kRows * kColumns, 11);
  for (const std::vector<float>& importance : {std::vector<float>{}, random_importance(kColumns, 12)}) {
    const Palette expected = fit(weights, importance);
    for (unsigned seed = 0; seed < 10; ++seed) {
      std::mt19937 generator(seed);
      std::vector<std::size_t> rows(kRows);
      std::iota(rows.begin(), rows.end(), std::size_t{0});
      std::ranges::shuffle(rows, generator);
      std::vector<PaletteHistogram> threads(1 + seed % 4, PaletteHistogram(importance));
      for (const std::size_t row : rows) {
        threads[generator() % threads.size()].add(std::span(weights).subspan(row * kColumns, kColumns));
      }
      PaletteHistogram all = std::move(threads.back());
      threads.pop_back();
      std::ranges::for_each(threads, [&](const PaletteHistogram& thread) { all.merge(thread); });
      EXPECT_EQ(all.fit(kBits, ElementType::kF32), expected);
    }
  }
}

// 2^31 weights whose factors are 2^31 and whose lower bits are all set: the sum takes 78 bits.
TEST(PaletteHistogram, CountsAsManyWeightsAsItSays) {
  const auto weight = std::bit_cast<float>(0x3F80FFFFU);
  PaletteHistogram histogram(std::vector<float>{7.0F});
  histogram.add(std::vector<float>{weight});
  for (int i = 0; i < 31; ++i) {
    histogram.merge(PaletteHistogram(histogram));
  }
  EXPECT_EQ(histogram.fit(kBits, ElementType::kF32)[0], weight);
  testing::expect_error(ErrorCode::kUnsupported, {"palette", "2^32"},
                        [&] { histogram.merge(PaletteHistogram(histogram)); });
}

TEST(PaletteHistogram, TakesZeroImportance) {
  const std::vector<float> weights = normal_weights(400, 3);
  EXPECT_EQ(fit(weights, std::vector<float>(20, 0.0F)), fit(weights));
  EXPECT_EQ(fit(weights, std::vector<float>(20, 1e-45F)), fit(weights));
  // What doesn't count has no value of its own.
  EXPECT_EQ(fit({1.0F, 5.0F, 2.0F, 5.0F}, {1.0F, 0.0F})[15], 2.0F);
}

TEST(PaletteHistogram, RoundsToFloat16) {
  const std::vector<float> weights = normal_weights(4000, 9);
  const Palette wide = fit(weights);
  const Palette narrow = fit(weights, {}, ElementType::kF16);
  for (std::size_t i = 0; i < wide.size(); ++i) {
    EXPECT_EQ(narrow[i], kernels::scalar::f16_to_f32_one(kernels::scalar::f32_to_f16_one(wide[i])));
  }
  // Values that become equal are there once, at the end as often as there is room.
  const Palette merged = fit({-1e-9F, 1e-9F, 1.0F, 1.0001F, 2.0F}, {}, ElementType::kF16);
  EXPECT_EQ(std::vector(merged.begin(), merged.begin() + 4), std::vector({0.0F, 1.0F, 2.0F, 2.0F}));
  EXPECT_FALSE(std::signbit(merged[0]));
  EXPECT_EQ(fit({65519.0F}, {}, ElementType::kF16)[0], 65504.0F);
  EXPECT_EQ(fit({65536.0F})[0], 65536.0F);
}

TEST(PaletteHistogram, FindsTheOptimumOfAnyNumberOfValues) {
  for (const int bits : kAllBits) {
    const std::vector<float> weights = in_bfloat16(normal_weights(400, static_cast<unsigned>(bits)));
    const Palette palette = fit(weights, {}, ElementType::kF32, bits);
    EXPECT_EQ(std::ssize(palette), 1 << bits);
    EXPECT_TRUE(std::ranges::is_sorted(palette));
    const double least = least_squared_error(weights, {}, bits);
    EXPECT_NEAR(squared_error(weights, palette), least, 1e-9 * least + 1e-18) << bits;
  }
}

TEST(PaletteHistogram, RefusesWhatMakesNoSense) {
  testing::expect_error(ErrorCode::kInvalidArgument, {"palette", "65536", "FP16 (65504)", "FP32"},
                        [] { fit({1.0F, -65536.0F}, {}, ElementType::kF16); });
  for (const float factor : {-1.0F, kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
    testing::expect_error(ErrorCode::kInvalidArgument, {"importance of column 1 is", std::to_string(factor)},
                          [&] { PaletteHistogram(std::vector<float>{1.0F, factor}); });
  }
  testing::expect_error(ErrorCode::kInvalidArgument, {"3 weights", "rows of 2"},
                        [] { fit({1.0F, 2.0F, 3.0F}, {1.0F, 1.0F}); });
  testing::expect_error(ErrorCode::kInvalidArgument, {"different importance"}, [] {
    PaletteHistogram(std::vector<float>{1.0F, 2.0F}).merge(PaletteHistogram(std::vector<float>{2.0F, 2.0F}));
  });
  testing::expect_error(ErrorCode::kInternal, {"i8"}, [] { fit({1.0F}, {}, ElementType::kI8); });
}

TEST(AssignPalette, FindsTheNearestValueAndTheLowerOfTwo) {
  for (unsigned seed = 0; seed < 24; ++seed) {
    Palette palette(std::size_t{1} << static_cast<unsigned>(kAllBits[seed / 4]));
    std::ranges::copy(normal_weights(palette.size(), seed), palette.begin());
    std::ranges::sort(palette);
    if (seed % 2 == 1) {
      const std::size_t last = seed % palette.size();
      std::fill(palette.begin() + static_cast<std::ptrdiff_t>(last), palette.end(), palette[last]);
    }
    std::vector<float> values = normal_weights(500, seed + 50);
    for (std::size_t i = 0; i + 1 < palette.size(); ++i) {
      const float middle = (palette[i] + palette[i + 1]) / 2.0F;
      for (const float value : {palette[i], middle}) {
        values.insert(values.end(),
                      {value, std::nextafter(value, -kInfinity), std::nextafter(value, kInfinity), -value});
      }
    }
    values.insert(values.end(), {0.0F, -0.0F, 1.0F, -1.0F, 1e-45F});
    const std::vector<unsigned> indices = assign(values, palette);
    for (std::size_t i = 0; i < values.size(); ++i) {
      EXPECT_EQ(indices[i], nearest_index(values[i], palette)) << seed << ": " << values[i];
    }
  }
}

TEST(AssignPalette, DecidesTiesExactly) {
  Palette palette(16);
  std::iota(palette.begin(), palette.end(), -4.0F);
  EXPECT_EQ(assign({-9.0F, -3.5F, -0.5F, 0.5F, 10.5F, 99.0F}, palette), (std::vector<unsigned>{0, 0, 3, 4, 14, 15}));
  // Half-way but for what no float or double of the sum holds.
  std::ranges::fill(palette, 1.0F);
  palette[0] = -1e-30F;
  EXPECT_EQ(assign({0.5F}, palette)[0], 1U);
  palette[0] = 1e-30F;
  EXPECT_EQ(assign({0.5F}, palette)[0], 0U);
  palette[0] = 0.0F;
  EXPECT_EQ(assign({0.5F}, palette)[0], 0U);
  // Subnormal neighbours, and a sum beyond float32's range.
  std::ranges::fill(palette, 0x1p-149F);
  palette[0] = 0.0F;
  EXPECT_EQ(assign({0.0F, 0x1p-149F, -0x1p-149F}, palette), (std::vector<unsigned>{0, 1, 0}));
  std::ranges::fill(palette, std::numeric_limits<float>::max());
  palette[0] = 0x1p127F;
  EXPECT_EQ(assign({0x1.1p127F, 0x1.fp127F}, palette), (std::vector<unsigned>{0, 1}));
}

TEST(AssignPalette, WritesWholeBytesAndNoMore) {
  for (const int bits : kAllBits) {
    const auto width = static_cast<std::size_t>(bits);
    const std::size_t values_count = std::size_t{1} << width;
    Palette palette(values_count);
    std::iota(palette.begin(), palette.end(), -8.0F);
    for (std::size_t count = 0; count < 200; ++count) {
      std::vector<float> values(count);
      for (std::size_t i = 0; i < count; ++i) {
        values[i] = static_cast<float>(i * 7 % values_count) - 8.0F;
      }
      const std::size_t size = (count * width + 7) / 8;
      std::vector<std::byte> packed(size + 1, std::byte{0xA5});
      assign_palette(values, palette, std::span(packed).first(size));
      EXPECT_EQ(packed[size], std::byte{0xA5});
      const std::vector<unsigned> indices = unpack(packed, count, width);
      for (std::size_t i = 0; i < count; ++i) {
        EXPECT_EQ(indices[i], i * 7 % values_count) << bits << " bits, " << count;
      }
      const std::size_t used = count * width % 8;
      if (used != 0) {
        EXPECT_EQ(static_cast<unsigned>(packed[size - 1]) >> used, 0U) << bits << " bits, " << count;
      }
    }
  }
}

}  // namespace
}  // namespace diffulex_edge
