#include "runtime/layer_statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/parallel.h"
#include "diffulex_edge/error.h"
#include "quant/affine_scale.h"
#include "runtime/kernels/activation_kernels.h"
#include "runtime/observer.h"

namespace diffulex_edge {
namespace {

constexpr std::int64_t kStatisticsTokens = 64;

// Summed over one token's row, or over all tokens of a kind.
struct RowSums {
  ActivationRange range;
  double magnitude = 0.0;  // the largest
  double squares = 0.0;
  double static_error = 0.0;  // squared, of 8-bit integers
  double token_error = 0.0;
};

double squared_error(std::span<const float> values, std::span<const float> integers, float scale) {
  double error = 0.0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double difference = static_cast<double>(integers[i]) * static_cast<double>(scale) - values[i];
    error += difference * difference;
  }
  return error;
}

RowSums measure_row(std::span<const float> values, const AffineScale& affine, std::vector<float>& integers) {
  RowSums sums;
  for (const float value : values) {
    sums.range.min = std::min(sums.range.min, value);
    sums.range.max = std::max(sums.range.max, value);
    sums.squares += static_cast<double>(value) * static_cast<double>(value);
  }
  sums.magnitude = static_cast<double>(std::max(-sums.range.min, sums.range.max));
  integers.resize(values.size());
  kernels::quantize_row_static(values.data(), integers.data(), values.size(), affine.scale, affine.zero_point);
  sums.static_error = squared_error(values, integers, affine.scale);
  const float scale = kernels::quantize_row_dynamic(values.data(), integers.data(), values.size());
  sums.token_error = squared_error(values, integers, scale);
  return sums;
}

double decibels(double signal, double error) {
  if (signal == 0.0) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  return error == 0.0 ? std::numeric_limits<double>::infinity() : 10.0 * std::log10(signal / error);
}

ValueStatistics summarize(const RowSums& sums, std::int64_t values) {
  return {.range = sums.range,
          .rms = values == 0 ? 0.0 : std::sqrt(sums.squares / static_cast<double>(values)),
          .static_scale_db = decibels(sums.squares, sums.static_error),
          .token_scales_db = decibels(sums.squares, sums.token_error)};
}

}  // namespace

std::vector<bool> masked_tokens(const CalibrationData& data) {
  std::vector<bool> all;
  for (const auto& sequence : data.masked) {
    all.insert(all.end(), sequence.begin(), sequence.end());
  }
  return all;
}

std::vector<bool> select(const std::vector<bool>& flags, const std::vector<std::int64_t>& tokens) {
  std::vector<bool> result;
  for (std::size_t i = 0; !flags.empty() && i < tokens.size(); ++i) {
    result.push_back(flags[static_cast<std::size_t>(tokens[i])]);
  }
  return result;
}

ActivationRange observe_values(const std::string& layer, std::span<const float> values,
                               const CalibrationOptions& options) {
  try {
    return observe(values, options.observer, options.percentile);
  } catch (const Error& error) {
    throw Error(error.code(), layer, "in calibration an activation is not finite", "the model's weights are broken");
  }
}

LayerStatistics measure_input(const std::string& layer, const InputRows& x, const std::vector<bool>& masked,
                              const CalibrationOptions& options, const RunControl& control) {
  LayerStatistics statistics;
  statistics.tokens = x.rows();
  statistics.chosen.input = observe_values(layer, x.data(), options);
  const AffineScale affine = affine_scale(statistics.chosen.input, 8);
  std::vector<RowSums> rows(static_cast<std::size_t>(x.rows()));
  std::vector<std::vector<float>> integers(thread_count(control));
  parallel_for(static_cast<std::size_t>((x.rows() + kStatisticsTokens - 1) / kStatisticsTokens), control,
               [&](std::size_t tile, std::size_t worker) {
                 const std::int64_t begin = static_cast<std::int64_t>(tile) * kStatisticsTokens;
                 for (std::int64_t token = begin; token < std::min(begin + kStatisticsTokens, x.rows()); ++token) {
                   rows[static_cast<std::size_t>(token)] = measure_row(x.row(token), affine, integers[worker]);
                 }
               });
  RowSums kinds[2];
  std::int64_t tokens[2] = {0, 0};
  double largest = 0.0;
  double sum = 0.0;
  for (std::size_t token = 0; token < rows.size(); ++token) {
    const RowSums& row = rows[token];
    const std::size_t kind = !masked.empty() && masked[token] ? 1 : 0;
    ++tokens[kind];
    kinds[kind].range.min = std::min(kinds[kind].range.min, row.range.min);
    kinds[kind].range.max = std::max(kinds[kind].range.max, row.range.max);
    kinds[kind].squares += row.squares;
    kinds[kind].static_error += row.static_error;
    kinds[kind].token_error += row.token_error;
    largest = std::max(largest, row.magnitude);
    sum += row.magnitude;
  }
  statistics.unmasked = summarize(kinds[0], tokens[0] * x.width());
  statistics.masked = summarize(kinds[1], tokens[1] * x.width());
  statistics.token_spread = sum == 0.0 ? 1.0 : largest * static_cast<double>(x.rows()) / sum;
  return statistics;
}

}  // namespace diffulex_edge
