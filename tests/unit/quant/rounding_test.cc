#include "quant/rounding.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "diffulex_edge/error.h"
#include "quant/integer_weight.h"
#include "support/expect_error.h"
#include "support/formats.h"

namespace diffulex_edge {
namespace {

constexpr std::int64_t kRows = 70;  // more than a tile
constexpr std::int64_t kColumns = 320;
constexpr std::int64_t kTokens = 600;

const WeightFormat kFormats[] = {int8_per_channel(), int4_per_channel(), int4_groups(32, ElementType::kBF16),
                                 int4_groups(64, ElementType::kBF16)};

std::vector<float> normal(std::int64_t count, unsigned seed, float deviation = 1.0F) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> distribution(0.0F, deviation);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) {
    value = distribution(generator);
  }
  return values;
}

InputStatistics statistics_of(const std::vector<float>& inputs, std::int64_t columns) {
  InputStatistics statistics{.columns = columns, .hessian = {}, .mean_abs = {}};
  const auto width = static_cast<std::size_t>(columns);
  const std::size_t tokens = inputs.size() / width;
  statistics.weight = static_cast<double>(tokens);
  statistics.hessian.resize(width * width);
  statistics.mean_abs.resize(width);
  for (std::size_t t = 0; t < tokens; ++t) {
    const float* x = inputs.data() + t * width;
    for (std::size_t i = 0; i < width; ++i) {
      statistics.mean_abs[i] += std::fabs(x[i]) / static_cast<float>(tokens);
      for (std::size_t j = 0; j < width; ++j) {
        statistics.hessian[i * width + j] += x[i] * x[j];
      }
    }
  }
  return statistics;
}

// Inputs in which neighbours resemble each other and some channels are large.
InputStatistics correlated_statistics() {
  std::vector<float> inputs = normal(kTokens * kColumns, 2);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const auto column = static_cast<std::int64_t>(i) % kColumns;
    inputs[i] = 0.5F * inputs[i] + (column > 0 ? 0.8F * inputs[i - 1] : 0.0F);
  }
  for (std::size_t i = 0; i < inputs.size(); i += 40) {
    inputs[i] *= 8.0F;
  }
  return statistics_of(inputs, kColumns);
}

InputStatistics identity_statistics(std::int64_t columns) {
  InputStatistics statistics{.columns = columns, .weight = 1.0, .hessian = {}, .mean_abs = {}};
  statistics.hessian.resize(static_cast<std::size_t>(columns * columns));
  for (std::int64_t i = 0; i < columns; ++i) {
    statistics.hessian[static_cast<std::size_t>(i * (columns + 1))] = 1.0F;
  }
  return statistics;
}

class Rounding : public ::testing::Test {
 protected:
  RoundedWeight gptq(const WeightFormat& format, const InputStatistics& statistics, const GptqOptions& options = {}) {
    return round_gptq(weight_, kRows, kColumns, format, statistics, options, control_);
  }
  RoundedWeight simple(const WeightFormat& format, RoundingMethod method) {
    return round_weight(weight_, kRows, kColumns, format, method, {}, control_);
  }
  double error(const RoundedWeight& rounded, const WeightFormat& format, const InputStatistics& statistics) {
    return output_error(weight_, rounded, kRows, kColumns, format, statistics, control_);
  }

  std::vector<float> weight_ = normal(kRows * kColumns, 1, 0.02F);
  RunControl control_{.threads = 2};
};

TEST_F(Rounding, IntegersPackAndUnpackExactly) {
  for (const WeightFormat& format : kFormats) {
    const RoundedWeight rounded = simple(format, RoundingMethod::RTN);
    RoundedWeight again;
    pack(unpack(rounded, kRows, kColumns, format), format, again);
    EXPECT_EQ(again.values, rounded.values);
    EXPECT_EQ(again.scales, rounded.scales);
  }
  const RoundedWeight odd = round_weight(std::span(weight_).first(9), 3, 3, int4_per_channel(), RoundingMethod::MSE, {},
                                         control_);  // rows of odd length
  RoundedWeight again;
  pack(unpack(odd, 3, 3, int4_per_channel()), int4_per_channel(), again);
  EXPECT_EQ(again.values, odd.values);
}

TEST_F(Rounding, GptqWithIndependentInputsRoundsToNearest) {
  const InputStatistics identity = identity_statistics(kColumns);
  for (const WeightFormat& format : kFormats) {
    for (const RoundingMethod method : {RoundingMethod::RTN, RoundingMethod::MSE, RoundingMethod::HQQ}) {
      for (const bool act_order : {false, true}) {
        const RoundedWeight expected = simple(format, method);
        const RoundedWeight found = gptq(format, identity, {.act_order = act_order, .scale_method = method});
        EXPECT_EQ(found.scales, expected.scales) << to_string(format);
        EXPECT_EQ(found.values, expected.values) << to_string(format);
      }
    }
  }
}

TEST_F(Rounding, GptqLowersTheOutputErrorAndRefiningLowersItFurther) {
  const InputStatistics statistics = correlated_statistics();
  for (const WeightFormat& format : kFormats) {
    SCOPED_TRACE(to_string(format));
    const double nearest = error(simple(format, RoundingMethod::RTN), format, statistics);
    for (const bool act_order : {false, true}) {
      for (const bool static_groups : {false, true}) {
        const GptqOptions options{.act_order = act_order, .static_groups = static_groups};
        RoundedWeight rounded = gptq(format, statistics, options);
        const double plain = error(rounded, format, statistics);
        EXPECT_LT(plain, 0.6 * nearest);
        EXPECT_EQ(rounded.method, RoundingMethod::GPTQ);
        refine_rounding(weight_, kRows, kColumns, format, statistics, 4, rounded, control_);
        EXPECT_LT(error(rounded, format, statistics), 0.99 * plain);
      }
    }
  }
}

TEST_F(Rounding, RefiningNeverRaisesTheError) {
  const InputStatistics statistics = correlated_statistics();
  for (const WeightFormat& format : kFormats) {
    RoundedWeight rounded = simple(format, RoundingMethod::RTN);
    double before = error(rounded, format, statistics);
    for (int pass = 0; pass < 5; ++pass) {
      refine_rounding(weight_, kRows, kColumns, format, statistics, 1, rounded, control_);
      const double after = error(rounded, format, statistics);
      EXPECT_LE(after, before * (1.0 + 1e-6)) << to_string(format) << ", pass " << pass;
      before = after;
    }
  }
}

TEST_F(Rounding, SingularHessiansWork) {
  const InputStatistics rank_one = statistics_of(normal(kColumns, 5), kColumns);
  std::vector<float> inputs = normal(20 * kColumns, 6);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    inputs[i] = i % 3 == 0 ? 0.0F : inputs[i];  // dead columns, and fewer tokens than columns
  }
  InputStatistics zero = identity_statistics(kColumns);
  std::ranges::fill(zero.hessian, 0.0F);
  for (const WeightFormat& format : kFormats) {
    for (const auto& statistics : {rank_one, statistics_of(inputs, kColumns), zero}) {
      for (const double damping : {0.01, 0.0}) {
        const RoundedWeight rounded = gptq(format, statistics, {.damping = damping, .refine_passes = 2});
        EXPECT_FALSE(rounded.fell_back);
        EXPECT_LE(error(rounded, format, statistics),
                  error(simple(format, RoundingMethod::RTN), format, statistics) * 1.001);
      }
    }
  }
}

TEST_F(Rounding, GptqFallsBackWhereNoDampingHelps) {
  InputStatistics broken = identity_statistics(kColumns);
  broken.hessian[1] = broken.hessian[kColumns] = 1e6F;
  const RoundedWeight rounded = gptq(int8_per_channel(), broken);
  EXPECT_TRUE(rounded.fell_back);
  EXPECT_EQ(rounded.method, RoundingMethod::MSE);
  EXPECT_EQ(rounded.values, simple(int8_per_channel(), RoundingMethod::MSE).values);
  broken.hessian[0] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(gptq(int8_per_channel(), broken).fell_back);
  EXPECT_TRUE(gptq(int8_per_channel(), broken, {.act_order = true}).fell_back);
}

TEST_F(Rounding, ResultsDoNotDependOnTheNumberOfThreads) {
  const InputStatistics statistics = correlated_statistics();
  const WeightFormat format = int4_groups(32, ElementType::kBF16);
  const auto all = [&](int threads) {
    control_.threads = threads;
    std::vector<RoundedWeight> results = {simple(format, RoundingMethod::MSE), simple(format, RoundingMethod::HQQ),
                                          gptq(format, statistics, {.act_order = true, .refine_passes = 2})};
    return std::pair(results, error(results[2], format, statistics));
  };
  const auto one = all(1);
  const auto three = all(3);
  EXPECT_EQ(one.second, three.second);
  for (std::size_t i = 0; i < one.first.size(); ++i) {
    EXPECT_EQ(one.first[i].values, three.first[i].values);
    EXPECT_EQ(one.first[i].scales, three.first[i].scales);
  }
}

TEST_F(Rounding, OutputErrorIsTheMeanSquareOfTheOutputsDifference) {
  const std::vector<float> inputs = normal(8 * 4, 7);
  const InputStatistics statistics = statistics_of(inputs, 4);
  const std::vector<float> weight = normal(3 * 4, 8);
  const std::vector<float> other = normal(3 * 4, 9);
  double expected = 0.0;
  for (std::size_t t = 0; t < 8; ++t) {
    for (std::size_t row = 0; row < 3; ++row) {
      double difference = 0.0;
      for (std::size_t j = 0; j < 4; ++j) {
        difference += static_cast<double>((weight[row * 4 + j] - other[row * 4 + j]) * inputs[t * 4 + j]);
      }
      expected += difference * difference / 8.0;
    }
  }
  EXPECT_NEAR(output_error(weight, other, 3, 4, statistics, {}), expected, 1e-4 * expected);
}

TEST_F(Rounding, AutoIsNeverWorseThanAnyMethod) {
  const InputStatistics statistics = correlated_statistics();
  for (const WeightFormat& format : kFormats) {
    const AutoRounding found = auto_round(weight_, kRows, kColumns, format, statistics, {}, control_);
    EXPECT_EQ(found.error, error(found.rounded, format, statistics));
    EXPECT_EQ(found.nearest_error, error(simple(format, RoundingMethod::RTN), format, statistics));
    EXPECT_LE(found.error, error(simple(format, RoundingMethod::MSE), format, statistics));
    const GptqOptions ordered{.act_order = true, .static_groups = true};
    EXPECT_LE(found.error, error(gptq(format, statistics, ordered), format, statistics));
    EXPECT_EQ(found.rounded.method, RoundingMethod::GPTQ);
  }
}

TEST_F(Rounding, AwqScalesHelpWhereInputsHaveOutlierChannels) {
  std::vector<float> inputs = normal(kTokens * kColumns, 10);
  for (std::size_t i = 0; i < inputs.size(); i += 64) {  // 64 divides the columns: whole channels
    inputs[i] *= 30.0F;
  }
  const InputStatistics statistics = statistics_of(inputs, kColumns);
  for (const WeightFormat& format : kFormats) {
    const AwqWeight weight{.weight = weight_, .rows = kRows, .format = format};
    const AwqScales found = search_awq_scales({&weight, 1}, kColumns, statistics, {}, control_);
    EXPECT_GT(found.exponent, 0.0);
    EXPECT_LT(found.error, 0.6 * found.unscaled_error) << to_string(format);
    EXPECT_GT(found.scales[0], found.scales[1]);
    for (const float scale : found.scales) {
      EXPECT_TRUE(std::isnormal(scale) && scale > 0.0F);
    }
  }
}

TEST_F(Rounding, AwqKeepsOneWhereScalingDoesNotHelp) {
  InputStatistics statistics = identity_statistics(kColumns);
  statistics.mean_abs.assign(static_cast<std::size_t>(kColumns), 0.0F);
  for (std::size_t i = 0; i < statistics.mean_abs.size(); ++i) {
    statistics.mean_abs[i] = i % 2 == 0 ? 1.0F : 0.01F;  // scaling by these would only harm
  }
  const AwqWeight weight{.weight = weight_, .rows = kRows, .format = int4_per_channel()};
  const AwqScales found = search_awq_scales({&weight, 1}, kColumns, statistics, {}, control_);
  EXPECT_EQ(found.exponent, 0.0);
  EXPECT_EQ(found.scales, std::vector<float>(static_cast<std::size_t>(kColumns), 1.0F));
  EXPECT_EQ(found.error, found.unscaled_error);
}

TEST_F(Rounding, NamesWhatIsWrongWithItsInput) {
  const WeightFormat format = int4_groups(32, ElementType::kBF16);
  testing::expect_error(ErrorCode::kInvalidArgument, {"input statistics"},
                        [&] { gptq(format, identity_statistics(64)); });
  testing::expect_error(ErrorCode::kInvalidArgument, {"weight", "elements"}, [&] {
    round_weight(std::span(weight_).first(10), kRows, kColumns, format, RoundingMethod::MSE, {}, control_);
  });
  weight_[kColumns + 7] = std::numeric_limits<float>::infinity();
  testing::expect_error(ErrorCode::kInvalidArgument, {"[1, 7]", "not finite"},
                        [&] { simple(format, RoundingMethod::HQQ); });
  testing::expect_error(ErrorCode::kInvalidArgument, {"[1, 7]", "not finite"},
                        [&] { gptq(format, identity_statistics(kColumns)); });
}

TEST_F(Rounding, Stops) {
  std::stop_source stop;
  stop.request_stop();
  control_.stop = stop.get_token();
  testing::expect_error(ErrorCode::kCancelled, {}, [&] { gptq(int8_per_channel(), identity_statistics(kColumns)); });
}

}  // namespace
}  // namespace diffulex_edge
