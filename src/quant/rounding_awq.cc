// AWQ: Lin et al., "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration" (2023),
// Section 3.2: s = mean|x|^alpha, alpha by grid search. Scales are normalized by sqrt(max * min), as the authors'
// program does.

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "core/parallel.h"
#include "diffulex_edge/error.h"
#include "quant/integer_weight.h"
#include "quant/rounding.h"
#include "quant/weight_decoder.h"

namespace diffulex_edge {
namespace {

// Beyond these, scaled weights of one group would differ more than their integers can.
constexpr double kLeastScale = 1e-4;
constexpr double kMostScale = 1e4;

std::vector<float> scales_of(std::span<const float> mean_abs, double exponent) {
  std::vector<double> powers(mean_abs.size());
  std::ranges::transform(mean_abs, powers.begin(), [&](float value) {
    return std::clamp(std::pow(static_cast<double>(value), exponent), kLeastScale, kMostScale);
  });
  const auto [least, most] = std::ranges::minmax(powers);
  const double middle = std::sqrt(least * most);
  std::vector<float> scales(powers.size());
  std::ranges::transform(powers, scales.begin(), [&](double power) { return static_cast<float>(power / middle); });
  return scales;
}

struct Sample {
  std::vector<float> weight;
  std::int64_t rows = 0;
  const WeightFormat& format;
};

Sample take_rows(const AwqWeight& source, std::int64_t columns, std::int64_t most_rows) {
  Sample sample{.rows = std::min(source.rows, std::max<std::int64_t>(1, most_rows)), .format = source.format};
  const auto width = static_cast<std::size_t>(columns);
  sample.weight.reserve(static_cast<std::size_t>(sample.rows) * width);
  for (std::int64_t i = 0; i < sample.rows; ++i) {
    const auto row = static_cast<std::size_t>(i * source.rows / sample.rows);
    const auto weights = source.weight.subspan(row * width, width);
    sample.weight.insert(sample.weight.end(), weights.begin(), weights.end());
  }
  return sample;
}

double error_with(const Sample& sample, std::span<const float> scales, const InputStatistics& statistics,
                  RoundingMethod method, const RunControl& control) {
  const auto columns = static_cast<std::int64_t>(scales.size());
  std::vector<float> scaled = sample.weight;
  scale_columns(scaled, sample.rows, scales);
  const RoundedWeight rounded = round_weight(scaled, sample.rows, columns, sample.format, method, {}, control);
  decode_rows(sample.format, rounded.values, rounded.scales, sample.rows, columns, scaled);
  unscale_columns(scaled, sample.rows, scales);
  return output_error(sample.weight, scaled, sample.rows, columns, statistics, control);
}

template <typename Change>
void change_columns(std::span<float> weight, std::int64_t rows, std::span<const float> scales, const Change& change) {
  for (std::size_t row = 0; row < static_cast<std::size_t>(rows); ++row) {
    const auto weights = weight.subspan(row * scales.size(), scales.size());
    std::ranges::transform(weights, scales, weights.begin(), change);
  }
}

}  // namespace

void scale_columns(std::span<float> weight, std::int64_t rows, std::span<const float> scales) {
  change_columns(weight, rows, scales, std::multiplies<>());
}

void unscale_columns(std::span<float> weight, std::int64_t rows, std::span<const float> scales) {
  change_columns(weight, rows, scales, std::divides<>());
}

AwqScales search_awq_scales(std::span<const AwqWeight> weights, std::int64_t columns, const InputStatistics& statistics,
                            const AwqOptions& options, const RunControl& control) {
  if (statistics.mean_abs.size() != static_cast<std::size_t>(columns)) {
    throw Error(ErrorCode::kInvalidArgument, "input statistics",
                "have " + std::to_string(statistics.mean_abs.size()) + " means, the weight has " +
                    std::to_string(columns) + " columns");
  }
  std::vector<Sample> samples;
  for (const AwqWeight& weight : weights) {
    check_layer(weight.weight, weight.rows, columns, &statistics);
    samples.push_back(take_rows(weight, columns, options.most_rows));
  }
  AwqScales best;
  for (int step = 0; step < std::max(1, options.grid); ++step) {
    const double exponent = static_cast<double>(step) / static_cast<double>(std::max(1, options.grid));
    std::vector<float> scales = scales_of(statistics.mean_abs, exponent);
    double error = 0.0;
    for (const Sample& sample : samples) {
      error += error_with(sample, scales, statistics, options.method, control);
    }
    if (step == 0) {
      best.unscaled_error = error;
    }
    if (step == 0 || error < best.error) {
      best.error = error;
      best.exponent = exponent;
      best.scales = std::move(scales);
    }
  }
  return best;
}

}  // namespace diffulex_edge
