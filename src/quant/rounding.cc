#include "quant/rounding.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "core/linear_algebra.h"
#include "core/parallel.h"
#include "diffulex_edge/error.h"
#include "quant/integer_weight.h"
#include "quant/scale_search.h"
#include "quant/weight_decoder.h"

namespace diffulex_edge {
namespace {

constexpr std::int64_t kTileRows = 64;
constexpr int kAutoRefinePasses = 4;

std::size_t tile_count(std::int64_t rows) { return static_cast<std::size_t>((rows + kTileRows - 1) / kTileRows); }

// sum over rows of e h e^T, from the rows' errors. `product` is a buffer.
double weighted_square(std::span<const float> errors, std::int64_t rows, const InputStatistics& statistics,
                       std::vector<float>& product) {
  const std::int64_t columns = statistics.columns;
  product.resize(errors.size());
  multiply({.m = rows, .n = columns, .k = columns}, errors.data(), columns, statistics.hessian.data(), columns,
           product.data(), columns);
  double sum = 0.0;
  for (std::size_t i = 0; i < errors.size(); ++i) {
    sum += static_cast<double>(errors[i]) * static_cast<double>(product[i]);
  }
  return sum;
}

// `decode(first_row, rows, target)` writes the rounded weights of some rows.
template <typename Decode>
double sum_output_error(std::span<const float> weight, std::int64_t rows, const InputStatistics& statistics,
                        const RunControl& control, const Decode& decode) {
  const std::int64_t columns = statistics.columns;
  check_layer(weight, rows, columns, &statistics);
  std::vector<double> errors(tile_count(rows));
  parallel_for(errors.size(), control, [&](std::size_t tile, std::size_t) {
    const std::int64_t first = static_cast<std::int64_t>(tile) * kTileRows;
    const std::int64_t count = std::min(kTileRows, rows - first);
    std::vector<float> difference(static_cast<std::size_t>(count * columns));
    decode(first, count, std::span(difference));
    const auto original = weight.subspan(static_cast<std::size_t>(first * columns), difference.size());
    std::ranges::transform(original, difference, difference.begin(), std::minus<>());
    std::vector<float> product;
    errors[tile] = weighted_square(difference, count, statistics, product);
  });
  double sum = 0.0;
  for (const double error : errors) {
    sum += error;
  }
  return statistics.weight > 0.0 ? sum / statistics.weight : sum;
}

}  // namespace

std::vector<float> input_importance(const InputStatistics& statistics) {
  const auto columns = static_cast<std::size_t>(statistics.columns);
  std::vector<float> importance(columns);
  for (std::size_t j = 0; j < columns; ++j) {
    const auto sum = static_cast<double>(statistics.hessian[j * columns + j]);
    importance[j] = static_cast<float>(std::max(0.0, statistics.weight > 0.0 ? sum / statistics.weight : sum));
  }
  return importance;
}

RoundedWeight round_weight(std::span<const float> weight, std::int64_t rows, std::int64_t columns,
                           const WeightFormat& format, RoundingMethod method, std::span<const float> importance,
                           const RunControl& control) {
  check_layer(weight, rows, columns, nullptr);
  check_finite(weight, columns);
  const auto width = static_cast<std::size_t>(columns);
  if (!importance.empty() && importance.size() != width) {
    throw Error(ErrorCode::kInvalidArgument, "importance", "is not of the weight's columns");
  }
  RoundedWeight result{.method = method};
  const std::int64_t value_bytes = format.row_bytes(columns);
  const std::int64_t scale_bytes = format.scales_per_row(columns) * format.scale_bytes();
  result.values.resize(static_cast<std::size_t>(rows * value_bytes));
  result.scales.resize(static_cast<std::size_t>(rows * scale_bytes));
  std::vector<ScaleSearch> searches(thread_count(control));
  parallel_for(tile_count(rows), control, [&](std::size_t tile, std::size_t worker) {
    const std::int64_t first = static_cast<std::int64_t>(tile) * kTileRows;
    for (std::int64_t row = first; row < std::min(rows, first + kTileRows); ++row) {
      const auto weights = weight.subspan(static_cast<std::size_t>(row) * width, width);
      round_row(weights, importance, format, method, searches[worker], result.values.data() + row * value_bytes,
                result.scales.data() + row * scale_bytes);
    }
  });
  return result;
}

double output_error(std::span<const float> weight, std::span<const float> decoded, std::int64_t rows,
                    std::int64_t columns, const InputStatistics& statistics, const RunControl& control) {
  check_layer(decoded, rows, columns, &statistics);
  return sum_output_error(
      weight, rows, statistics, control, [&](std::int64_t first, std::int64_t count, std::span<float> target) {
        const auto part =
            decoded.subspan(static_cast<std::size_t>(first * columns), static_cast<std::size_t>(count * columns));
        std::ranges::copy(part, target.begin());
      });
}

double output_error(std::span<const float> weight, const RoundedWeight& rounded, std::int64_t rows,
                    std::int64_t columns, const WeightFormat& format, const InputStatistics& statistics,
                    const RunControl& control) {
  check_layer(weight, rows, columns, &statistics);
  const auto value_bytes = static_cast<std::size_t>(format.row_bytes(columns));
  const auto scale_bytes = static_cast<std::size_t>(format.scales_per_row(columns) * format.scale_bytes());
  return sum_output_error(
      weight, rows, statistics, control, [&](std::int64_t first_row, std::int64_t count_rows, std::span<float> target) {
        const auto first = static_cast<std::size_t>(first_row);
        const auto count = static_cast<std::size_t>(count_rows);
        decode_rows(format, std::span(rounded.values).subspan(first * value_bytes, count * value_bytes),
                    std::span(rounded.scales).subspan(first * scale_bytes, count * scale_bytes), count_rows, columns,
                    target);
      });
}

AutoRounding auto_round(std::span<const float> weight, std::int64_t rows, std::int64_t columns,
                        const WeightFormat& format, const InputStatistics& statistics, const AutoOptions& options,
                        const RunControl& control) {
  check_layer(weight, rows, columns, &statistics);
  const auto error_of = [&](const RoundedWeight& rounded) {
    return options.judge ? options.judge(rounded)
                         : output_error(weight, rounded, rows, columns, format, statistics, control);
  };
  AutoRounding best;
  best.rounded = round_weight(weight, rows, columns, format, RoundingMethod::RTN, {}, control);
  best.nearest_error = best.error = error_of(best.rounded);
  const auto take_if_better = [&](const RoundedWeight& candidate) {
    const double error = error_of(candidate);
    if (error < best.error) {
      best.error = error;
      best.rounded = candidate;
    }
  };
  take_if_better(round_weight(weight, rows, columns, format, RoundingMethod::MSE, {}, control));
  take_if_better(
      round_weight(weight, rows, columns, format, RoundingMethod::MSE, input_importance(statistics), control));
  take_if_better(round_weight(weight, rows, columns, format, RoundingMethod::HQQ, {}, control));
  for (const std::span<const float> target : {weight, options.corrected}) {
    if (target.empty()) {
      continue;
    }
    const GptqOptions gptq{.act_order = true, .static_groups = true};
    RoundedWeight candidate = round_gptq(target, rows, columns, format, statistics, gptq, control);
    if (candidate.fell_back) {
      continue;
    }
    take_if_better(candidate);
    refine_rounding(target, rows, columns, format, statistics, kAutoRefinePasses, candidate, control);
    take_if_better(candidate);
  }
  return best;
}

}  // namespace diffulex_edge
