#include "runtime/kernels/activation_kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace diffulex_edge::kernels {
namespace {

std::vector<float> normal(std::size_t size, unsigned seed, float width = 2.0F) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> distribution(0.0F, width);
  std::vector<float> values(size);
  for (float& value : values) {
    value = distribution(generator);
  }
  return values;
}

// Around the number of lanes of every instruction set.
constexpr std::size_t kSizes[] = {1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 64, 100, 4097};

TEST(ActivationKernels, AddAndSwiGlu) {
  for (const std::size_t n : kSizes) {
    const auto a = normal(n, 1, 30.0F);
    const auto b = normal(n, 2);
    std::vector<float> sum(n);
    std::vector<float> gated(n);
    add_rows(a.data(), b.data(), sum.data(), n);
    swiglu_row(a.data(), b.data(), gated.data(), n);
    for (std::size_t i = 0; i < n; ++i) {
      EXPECT_EQ(sum[i], a[i] + b[i]);
      const double expected = static_cast<double>(a[i]) / (1.0 + std::exp(-static_cast<double>(a[i]))) * b[i];
      EXPECT_NEAR(gated[i], expected, 1e-5 * std::max(1.0, std::fabs(expected)));
    }
  }
}

TEST(ActivationKernels, SwiGluIsFiniteForAnyGate) {
  const std::vector<float> gates = {-1e30F, -1000.0F, -88.0F, 88.0F, 1000.0F, 1e30F};
  const std::vector<float> ones(gates.size(), 1.0F);
  std::vector<float> result(gates.size());
  swiglu_row(gates.data(), ones.data(), result.data(), gates.size());
  for (std::size_t i = 1; i < gates.size(); ++i) {
    EXPECT_NEAR(result[i], gates[i] > 0 ? gates[i] : 0.0F, std::fabs(gates[i]) * 1e-6F + 1e-30F);
  }
  EXPECT_TRUE(std::isfinite(result[0]));
}

TEST(ActivationKernels, RmsNormAndRope) {
  for (const std::size_t n : {2U, 6U, 32U, 96U, 130U}) {
    const auto x = normal(n, 3);
    const auto w = normal(n, 4);
    std::vector<float> result(n);
    rms_norm_row(x.data(), w.data(), 1e-5F, result.data(), n);
    double squares = 0.0;
    for (const float value : x) {
      squares += static_cast<double>(value) * value;
    }
    const double factor = 1.0 / std::sqrt(squares / static_cast<double>(n) + 1e-5);
    for (std::size_t i = 0; i < n; ++i) {
      EXPECT_NEAR(result[i], x[i] * factor * w[i], 1e-5);
    }
    const auto sin = normal(n, 5);
    rope_row(x.data(), w.data(), sin.data(), result.data(), n);
    for (std::size_t i = 0; i < n; ++i) {
      const std::size_t other = i < n / 2 ? i + n / 2 : i - n / 2;
      EXPECT_NEAR(result[i], x[i] * w[i] + x[other] * sin[i], 1e-5);
    }
  }
}

// Whatever the vectors are: NaN is passed over, as by std::min and std::max, and 0 always belongs to the range.
TEST(ActivationKernels, DynamicScaleIsThatOfTheRange) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  for (const std::size_t n : kSizes) {
    for (const std::size_t hole : {n, std::size_t{0}, n / 2, n - 1}) {
      auto x = normal(n, 8);
      x.push_back(0.0F);  // where no hole is
      x[hole] = kNan;
      float min = 0.0F;
      float max = 0.0F;
      for (std::size_t i = 0; i < n; ++i) {
        min = x[i] < min ? x[i] : min;
        max = max < x[i] ? x[i] : max;
      }
      std::vector<float> rounded(n);
      const float scale = quantize_row_dynamic(x.data(), rounded.data(), n);
      EXPECT_EQ(scale, min == max ? 1.0F : 1.0F / (255.0F / (max - min))) << n << ", NaN at " << hole;
    }
  }
}

TEST(ActivationKernels, SoftmaxAndItsSums) {
  for (const std::size_t n : kSizes) {
    const auto x = normal(n, 6, 5.0F);
    const auto y = normal(n, 7, 5.0F);
    const double max = *std::ranges::max_element(x);
    double sum = 0.0;
    for (const float value : x) {
      sum += std::exp(value - max);
    }
    const LogSumExpParts parts = exp_sum_row(x.data(), n);
    EXPECT_EQ(parts.max, max);
    EXPECT_NEAR(parts.sum, sum, 1e-5 * sum);
    auto softmax = x;
    softmax_row(softmax.data(), n);
    double difference = 0.0;
    for (std::size_t i = 0; i < n; ++i) {
      const double probability = std::exp(x[i] - max) / sum;
      EXPECT_NEAR(softmax[i], probability, 1e-6);
      difference += probability * (static_cast<double>(x[i]) - y[i]);
    }
    const auto log_sum_exp = static_cast<float>(max + std::log(sum));
    EXPECT_NEAR(expected_difference_row(x.data(), y.data(), n, log_sum_exp), difference,
                1e-4 * std::max(1.0, std::fabs(difference)));
  }
}

TEST(ActivationKernels, DynamicQuantizationKeepsZeroAndCoversTheRow) {
  for (const std::size_t n : kSizes) {
    for (const float shift : {0.0F, 3.0F, -3.0F}) {
      auto x = normal(n, 8);
      for (float& value : x) {
        value += shift;
      }
      x[n / 2] = 0.0F;
      std::vector<float> q(n);
      const float scale = quantize_row_dynamic(x.data(), q.data(), n);
      EXPECT_EQ(q[n / 2], 0.0F);
      const auto [low, high] = std::ranges::minmax(q);
      EXPECT_LE(high - low, 255.0F);
      for (std::size_t i = 0; i < n; ++i) {
        EXPECT_EQ(q[i], std::nearbyint(q[i]));
        EXPECT_NEAR(q[i] * scale, x[i], scale * 1.01F);
      }
    }
  }
}

TEST(ActivationKernels, QuantizedBytesAreTheFloatsOfTheSimulation) {
  for (const std::size_t n : kSizes) {
    for (const float shift : {0.0F, 1.0F, 9.0F, -9.0F}) {
      auto x = normal(n, 9);
      for (float& value : x) {
        value += shift;
      }
      std::vector<float> expected(n);
      std::vector<std::int8_t> q(n);
      const auto expect_equal = [&](std::int32_t zero_point) {
        for (std::size_t i = 0; i < n; ++i) {
          EXPECT_EQ(static_cast<float>(q[i] - zero_point), expected[i]);
        }
      };
      const DynamicScale scale = quantize_row_dynamic_i8(x.data(), q.data(), n);
      EXPECT_EQ(scale.scale, quantize_row_dynamic(x.data(), expected.data(), n));
      expect_equal(scale.zero_point);
      quantize_row_static(x.data(), expected.data(), n, 0.05F, 7);
      quantize_row_static_i8(x.data(), q.data(), n, 0.05F, 7);
      expect_equal(7);
    }
  }
}

TEST(ActivationKernels, DynamicQuantizationOfZerosIsZero) {
  const std::vector<float> zeros(20);
  std::vector<float> q(20, 5.0F);
  EXPECT_EQ(quantize_row_dynamic(zeros.data(), q.data(), 20), 1.0F);
  EXPECT_EQ(q, zeros);
}

TEST(ActivationKernels, StaticQuantizationClamps) {
  const std::vector<float> x = {-100.0F, -1.0F, -0.26F, 0.0F, 0.25F, 0.75F, 100.0F};
  std::vector<float> q(x.size());
  quantize_row_static(x.data(), q.data(), x.size(), 0.5F, 10);
  EXPECT_EQ(q, (std::vector<float>{-138.0F, -2.0F, -1.0F, 0.0F, 0.0F, 2.0F, 117.0F}));
}

}  // namespace
}  // namespace diffulex_edge::kernels
