#include "runtime/layer_input.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "diffulex_edge/error.h"
#include "diffulex_edge/weight_format.h"
#include "support/formats.h"

namespace diffulex_edge {
namespace {

constexpr std::int64_t kWidth = 6;
constexpr std::int64_t kTokens = 200;

Activations random_activations(unsigned seed, std::int64_t rows = kTokens) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Activations made{.rows = rows, .width = kWidth, .data = {}};
  for (std::int64_t i = 0; i < rows * kWidth; ++i) {
    made.data.push_back(normal(random));
  }
  return made;
}

double square_of(std::span<const float> row) {
  double sum = 0.0;
  for (const float value : row) {
    sum += static_cast<double>(value) * static_cast<double>(value);
  }
  return sum;
}

double dot(std::span<const float> a, std::span<const float> b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  }
  return sum;
}

// sum over tokens of the squared difference of one output, in the tokens' relative weights.
double output_error(std::span<const float> weight, const Activations& seen, std::span<const float> wanted,
                    const Activations& truth) {
  double error = 0.0;
  for (std::int64_t t = 0; t < seen.rows; ++t) {
    const double difference = dot(weight, seen.row(t)) - dot(wanted, truth.row(t));
    error += difference * difference / square_of(seen.row(t));
  }
  return error;
}

TEST(LayerInput, CountsTokensRelativeToTheirSize) {
  Activations seen = random_activations(1);
  for (std::size_t j = 0; j < kWidth; ++j) {
    seen.data[j] *= 1000.0F;  // the first token
  }
  const LayerInput input(seen, std::nullopt, {}, {});
  const InputStatistics& statistics = input.statistics();
  double trace = 0.0;
  for (std::size_t j = 0; j < kWidth; ++j) {
    trace += static_cast<double>(statistics.hessian[j * kWidth + j]);
  }
  // Each token brings the same share of the trace, whatever its size.
  std::vector<double> expected(kWidth * kWidth);
  double sum_of_weights = 0.0;
  for (std::int64_t t = 0; t < kTokens; ++t) {
    sum_of_weights += 1.0 / square_of(seen.row(t));
  }
  const double share = static_cast<double>(kTokens) / sum_of_weights;
  for (std::int64_t t = 0; t < kTokens; ++t) {
    const auto x = seen.row(t);
    for (std::size_t i = 0; i < kWidth; ++i) {
      for (std::size_t j = 0; j < kWidth; ++j) {
        expected[i * kWidth + j] += share * static_cast<double>(x[i]) * static_cast<double>(x[j]) / square_of(x);
      }
    }
  }
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(statistics.hessian[i], expected[i], 1e-3 * trace) << i;
  }
  EXPECT_NEAR(statistics.weight, static_cast<double>(kTokens), 1e-3);
}

TEST(LayerInput, LeavesHeldOutTokensOutOfTheStatistics) {
  const Activations seen = random_activations(2);
  Activations others = seen;
  TokenSplit split{.weights = std::vector<float>(kTokens, 1.0F), .held_out = {3, 7}};
  for (const std::int64_t row : split.held_out) {
    split.weights[static_cast<std::size_t>(row)] = 0.0F;
    others.data[static_cast<std::size_t>(row * kWidth)] = 5.0F;
  }
  const LayerInput first(seen, std::nullopt, split, {});
  const LayerInput second(others, std::nullopt, split, {});
  EXPECT_EQ(first.statistics().hessian, second.statistics().hessian);
}

TEST(LayerInput, CorrectsAQuarterOfTheWay) {
  const Activations truth = random_activations(3);
  Activations seen = truth;
  // Earlier layers mix a part of each column into the next one: a linear error, which a weight can undo.
  for (std::int64_t t = 0; t < kTokens; ++t) {
    for (std::int64_t j = 1; j < kWidth; ++j) {
      seen.data[static_cast<std::size_t>(t * kWidth + j)] +=
          0.3F * truth.data[static_cast<std::size_t>(t * kWidth + j - 1)];
    }
  }
  const std::vector<float> weight = {1.0F, -2.0F, 0.5F, 3.0F, -1.0F, 0.25F};
  const LayerInput input(seen, InputRows(truth), {}, {});
  const std::vector<float> corrected = input.correct(weight, 1);
  ASSERT_EQ(corrected.size(), weight.size());
  std::vector<float> whole(weight.size());
  for (std::size_t i = 0; i < weight.size(); ++i) {
    whole[i] = weight[i] + 4.0F * (corrected[i] - weight[i]);
  }
  const double before = output_error(weight, seen, weight, truth);
  EXPECT_LT(output_error(whole, seen, weight, truth), 0.05 * before);
  EXPECT_NEAR(output_error(corrected, seen, weight, truth), 0.75 * 0.75 * before, 0.05 * before);
}

TEST(LayerInput, HasNothingToCorrectWithoutATruthOrWhereItIsTheSame) {
  const Activations seen = random_activations(4);
  const std::vector<float> weight(kWidth, 1.0F);
  EXPECT_TRUE(LayerInput(seen, std::nullopt, {}, {}).correct(weight, 1).empty());
  EXPECT_TRUE(LayerInput(seen, InputRows(seen), {}, {}).correct(weight, 1).empty());
}

TEST(LayerInput, JudgesByTheOutputsRelativeErrorOnHeldOutTokens) {
  const Activations seen = random_activations(5);
  const TokenSplit split{.weights = {}, .held_out = {0, 5, 9}};
  const std::vector<float> weight = {0.9F, -0.7F, 0.3F, 0.11F, -0.5F, 0.2F};
  const WeightFormat format = int8_per_channel();
  const RoundedWeight rounded = round_weight(weight, 1, kWidth, format, RoundingMethod::RTN, {}, {});
  const float scale = 0.9F / 127.0F;
  std::vector<float> decoded;
  for (const float value : weight) {
    decoded.push_back(std::nearbyint(value / scale) * scale);
  }
  double expected = 0.0;
  double sum_of_weights = 0.0;
  for (const std::int64_t t : split.held_out) {
    const double difference = dot(decoded, seen.row(t)) - dot(weight, seen.row(t));
    expected += difference * difference / square_of(seen.row(t));
    sum_of_weights += 1.0 / square_of(seen.row(t));
  }
  const LayerInput input(seen, std::nullopt, split, {});
  EXPECT_NEAR(input.judge(weight, 1, format, {})(rounded), expected / sum_of_weights, 1e-3 * expected / sum_of_weights);
}

TEST(LayerInput, RefusesActivationsThatAreNotFinite) {
  Activations seen = random_activations(6);
  seen.data[3] = std::nanf("");
  EXPECT_THROW(LayerInput(seen, std::nullopt, {}, {}), Error);
}

}  // namespace
}  // namespace diffulex_edge
