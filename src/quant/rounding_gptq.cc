// GPTQ: Frantar, Ashkboos, Hoefler, Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
// Transformers" (2022), Algorithm 1.

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/linear_algebra.h"
#include "core/parallel.h"
#include "quant/integer_weight.h"
#include "quant/rounding.h"
#include "quant/scale_search.h"

namespace diffulex_edge {
namespace {

constexpr std::int64_t kGptqTileRows = 64;
constexpr std::int64_t kGptqBlock = 128;  // the paper's B: updates beyond a block are done at once by BLAS

struct Factor {
  std::vector<std::int64_t> order;  // column that is rounded i-th
  std::vector<float> inverse;       // U of H^-1 = U^T U in that order, [columns, columns], upper triangle
};

std::vector<std::int64_t> rounding_order(const InputStatistics& statistics, bool act_order) {
  const auto columns = static_cast<std::size_t>(statistics.columns);
  std::vector<std::int64_t> order(columns);
  std::iota(order.begin(), order.end(), std::int64_t{0});
  if (act_order) {
    const auto diagonal = [&](std::int64_t j) {
      return statistics.hessian[static_cast<std::size_t>(j) * (columns + 1)];
    };
    std::ranges::sort(order, [&](std::int64_t a, std::int64_t b) {
      return diagonal(a) != diagonal(b) ? diagonal(a) > diagonal(b) : a < b;
    });
  }
  return order;
}

// U without the inverse itself: with J the reversal of rows, J H J = C^T C gives H^-1 = U^T U for U = J (C^-1)^T J.
bool factorize(const InputStatistics& statistics, double damping, Factor& factor) {
  const auto n = static_cast<std::size_t>(statistics.columns);
  const double factor_of_sum = statistics.weight > 0.0 ? 2.0 / statistics.weight : 2.0;
  const auto h = [&](std::size_t i, std::size_t j) {
    return static_cast<double>(statistics.hessian[i * n + j]) * factor_of_sum;
  };
  double trace = 0.0;
  for (std::size_t i = 0; i < n; ++i) {
    trace += h(i, i);
  }
  const double added = damping * trace / static_cast<double>(n);
  std::vector<double> c(n * n);
  for (std::size_t i = 0; i < n; ++i) {
    const auto row = static_cast<std::size_t>(factor.order[n - 1 - i]);
    for (std::size_t j = 0; j < n; ++j) {
      c[i * n + j] = h(row, static_cast<std::size_t>(factor.order[n - 1 - j]));
    }
    // A column that no input ever used has no say in the others' rounding, nor they in its own.
    const bool dead = c[i * n + i] <= 0.0;
    c[i * n + i] = dead ? std::max(1.0, added) : c[i * n + i] + added;
  }
  if (!std::isfinite(trace) || !cholesky_upper(c, statistics.columns) || !invert_upper(c, statistics.columns)) {
    return false;
  }
  factor.inverse.assign(n * n, 0.0F);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = i; j < n; ++j) {
      factor.inverse[i * n + j] = static_cast<float>(c[(n - 1 - j) * n + (n - 1 - i)]);
    }
    if (!std::isnormal(factor.inverse[i * n + i])) {
      return false;
    }
  }
  return true;
}

bool factorize_damped(const InputStatistics& statistics, const GptqOptions& options, Factor& factor) {
  constexpr double kLeastDamping = 1e-6;
  double damping = options.damping;
  while (damping <= options.most_damping) {
    if (factorize(statistics, damping, factor)) {
      return true;
    }
    damping = std::max(10.0 * damping, kLeastDamping);
  }
  return false;
}

struct GptqWorker {
  ScaleSearch search;
  std::vector<float> weights;  // [tile, columns], in the order of rounding
  std::vector<float> errors;   // [tile, block]: the paper's E
  std::vector<float> group;
};

class GptqRounder {
 public:
  GptqRounder(std::span<const float> weight, const WeightFormat& format, const GptqOptions& options,
              const Factor& factor, std::span<const float> importance, IntegerWeight& result)
      : weight_(weight),
        grid_(integer_grid(format)),
        options_(options),
        factor_(factor),
        importance_(importance),
        result_(result),
        columns_(result.columns),
        static_scales_(options.act_order || options.static_groups || result.scales_per_row() == 1) {}

  void round_tile(std::int64_t first, std::int64_t rows, GptqWorker& worker) const {
    worker.weights.resize(static_cast<std::size_t>(rows * columns_));
    worker.errors.resize(static_cast<std::size_t>(rows * kGptqBlock));
    for (std::int64_t r = 0; r < rows; ++r) {
      const float* source = weight_.data() + (first + r) * columns_;
      float* target = worker.weights.data() + r * columns_;
      for (std::int64_t i = 0; i < columns_; ++i) {
        target[i] = source[factor_.order[static_cast<std::size_t>(i)]];
      }
      if (static_scales_) {
        for (std::int64_t g = 0; g < result_.scales_per_row(); ++g) {
          result_.row_scales(first + r)[g] = find_scale(source, g, worker.search);
        }
      }
    }
    for (std::int64_t begin = 0; begin < columns_; begin += kGptqBlock) {
      const std::int64_t count = std::min(kGptqBlock, columns_ - begin);
      for (std::int64_t r = 0; r < rows; ++r) {
        round_block(first + r, begin, count, worker.weights.data() + r * columns_,
                    worker.errors.data() + r * kGptqBlock, worker.search);
      }
      const std::int64_t end = begin + count;
      multiply({.m = rows, .n = columns_ - end, .k = count, .alpha = -1.0F, .beta = 1.0F}, worker.errors.data(),
               kGptqBlock, factor_.inverse.data() + begin * columns_ + end, columns_, worker.weights.data() + end,
               columns_);
    }
  }

 private:
  // `row` is in the columns' own order, which is the order of rounding wherever scales are not static.
  float find_scale(const float* row, std::int64_t group, ScaleSearch& search) const {
    const auto begin = static_cast<std::size_t>(group * result_.run);
    const auto run = static_cast<std::size_t>(result_.run);
    const auto importance = importance_.empty() ? importance_ : importance_.subspan(begin, run);
    return search.find(options_.scale_method, std::span(row + begin, run), importance, grid_);
  }

  void round_block(std::int64_t row, std::int64_t begin, std::int64_t count, float* weights, float* errors,
                   ScaleSearch& search) const {
    float* scales = result_.row_scales(row);
    std::int8_t* integers = result_.row(row);
    for (std::int64_t i = begin; i < begin + count; ++i) {
      const std::int64_t column = factor_.order[static_cast<std::size_t>(i)];
      const std::int64_t group = column / result_.run;
      if (!static_scales_ && column % result_.run == 0) {
        scales[group] = find_scale(weights, group, search);
      }
      const float q = nearest_integer(weights[i], scales[group], grid_);
      integers[column] = static_cast<std::int8_t>(q);
      const float* u = factor_.inverse.data() + i * columns_;
      const float error = (weights[i] - q * scales[group]) / u[i];
      errors[i - begin] = error;
      for (std::int64_t j = i + 1; j < begin + count; ++j) {
        weights[j] -= error * u[j];
      }
    }
  }

  std::span<const float> weight_;
  IntegerGrid grid_;
  const GptqOptions& options_;
  const Factor& factor_;
  std::span<const float> importance_;
  IntegerWeight& result_;
  std::int64_t columns_;
  bool static_scales_;
};

}  // namespace

RoundedWeight round_gptq(std::span<const float> weight, std::int64_t rows, std::int64_t columns,
                         const WeightFormat& format, const InputStatistics& statistics, const GptqOptions& options,
                         const RunControl& control) {
  check_layer(weight, rows, columns, &statistics);
  const std::vector<float> importance = options.weigh_scales ? input_importance(statistics) : std::vector<float>();
  // Infinities and NaN have no order.
  const bool ordered = std::ranges::all_of(input_importance(statistics), [](float sum) { return std::isfinite(sum); });
  Factor factor{.order = rounding_order(statistics, options.act_order && ordered), .inverse = {}};
  if (!ordered || !factorize_damped(statistics, options, factor)) {
    RoundedWeight fallback = round_weight(weight, rows, columns, format, options.scale_method, {}, control);
    fallback.fell_back = true;
    return fallback;
  }
  check_finite(weight, columns);
  IntegerWeight integers(rows, columns, format);
  const GptqRounder rounder(weight, format, options, factor, importance, integers);
  std::vector<GptqWorker> workers(thread_count(control));
  parallel_for(static_cast<std::size_t>((rows + kGptqTileRows - 1) / kGptqTileRows), control,
               [&](std::size_t tile, std::size_t worker) {
                 const std::int64_t first = static_cast<std::int64_t>(tile) * kGptqTileRows;
                 rounder.round_tile(first, std::min(kGptqTileRows, rows - first), workers[worker]);
               });
  RoundedWeight result{.method = RoundingMethod::GPTQ};
  pack(integers, format, result);
  if (options.refine_passes > 0) {
    refine_rounding(weight, rows, columns, format, statistics, options.refine_passes, result, control);
  }
  return result;
}

}  // namespace diffulex_edge
