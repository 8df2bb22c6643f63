#include "quant/scale_search.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "diffulex_edge/error.h"
#include "quant/kernels/kernels.h"

namespace diffulex_edge {
namespace {

// How far below the scale that clips nothing the search goes: a short group gains little from clipping, a long row with
// an outlier much.
constexpr float kLeastOfGroup = 0.5F;
constexpr float kLeastOfRow = 0.2F;
constexpr std::size_t kLongRow = 1024;
constexpr int kCoarseSteps = 127;
constexpr int kFineSteps = 31;
// Errors are sums in float32: less than this part of another is less for certain.
constexpr float kClearlyLess = 1.0F - 1e-4F;

// Badri & Shaji, "Half-Quadratic Quantization of Large Machine Learning Models" (2023): p and the start and growth of
// beta are the paper's. Weights are in units of the first scale, so that beta means the same for every weight.
constexpr float kNorm = 0.7F;
constexpr float kFirstBeta = 10.0F;
constexpr float kBetaGrowth = 1.01F;
constexpr int kHqqIterations = 20;
constexpr std::size_t kHqqMultiple = 16;  // of the kernel's length

float largest_magnitude(std::span<const float> weights) { return kernels::f32_abs_max(weights.data(), weights.size()); }

// The least scale that clips nothing; a grid of 8 bits is by magnitude only, as the stored format defines it.
float nearest_scale(std::span<const float> weights, const IntegerGrid& grid, float largest) {
  if (grid.low <= -128.0F) {
    return storable_scale(largest / grid.high, grid.scale_type);
  }
  const kernels::MinMax range = kernels::f32_min_max(weights.data(), weights.size());
  return storable_scale(std::max(range.max / grid.high, range.min / grid.low), grid.scale_type);
}

bool is_better(std::span<const float> weights, std::span<const float> importance, float scale, float than,
               const IntegerGrid& grid) {
  return scale != than &&
         squared_error(weights, importance, scale, grid) < squared_error(weights, importance, than, grid);
}

// The scale that is best for the integers that `scale` gives: least squares, <q, w> / <q, q>.
float fit_scale(std::span<const float> weights, std::span<const float> importance, float scale,
                const IntegerGrid& grid) {
  double q_dot_w = 0.0;
  double q_dot_q = 0.0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const auto q = static_cast<double>(nearest_integer(weights[i], scale, grid));
    const double factor = importance.empty() ? q : q * static_cast<double>(importance[i]);
    q_dot_w += factor * static_cast<double>(weights[i]);
    q_dot_q += factor * q;
  }
  return q_dot_q > 0.0 ? storable_scale(static_cast<float>(q_dot_w / q_dot_q), grid.scale_type) : scale;
}

}  // namespace

IntegerGrid integer_grid(const WeightFormat& format) {
  if (!format.is_grid()) {
    throw Error(ErrorCode::kInternal, to_string(format), "has no integers");
  }
  const ElementTraits& element = traits(format.element);
  return {.low = static_cast<float>(element.low),
          .high = static_cast<float>(element.high),
          .scale_type = format.scale_type};
}

float storable_scale(float scale, ElementType type) {
  if (type == ElementType::kF16) {
    // Only GGUF has such scales, and llama.cpp computes with subnormal ones.
    constexpr float kLeast = 0x1p-24F;
    return kernels::scalar::f16_to_f32_one(
        kernels::scalar::f32_to_f16_one(std::clamp(scale, kLeast, kernels::kMaxFinite16)));
  }
  const float normal = std::max(scale, std::numeric_limits<float>::min());
  if (type != ElementType::kBF16) {
    return std::min(normal, std::numeric_limits<float>::max());
  }
  constexpr std::uint16_t kLargest = 0x7F7F;
  return kernels::scalar::bf16_to_f32_one(std::min(kernels::scalar::f32_to_bf16_one(normal), kLargest));
}

void store_scale(float scale, ElementType type, std::byte* target) {
  if (type == ElementType::kF32) {
    std::memcpy(target, &scale, sizeof(scale));
    return;
  }
  const std::uint16_t bits =
      type == ElementType::kBF16 ? kernels::scalar::f32_to_bf16_one(scale) : kernels::scalar::f32_to_f16_one(scale);
  std::memcpy(target, &bits, sizeof(bits));
}

double squared_error(std::span<const float> weights, std::span<const float> importance, float scale,
                     const IntegerGrid& grid) {
  double sum = 0.0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const auto q = static_cast<double>(nearest_integer(weights[i], scale, grid));
    const double error = static_cast<double>(weights[i]) - q * static_cast<double>(scale);
    sum += importance.empty() ? error * error : error * error * static_cast<double>(importance[i]);
  }
  return sum;
}

float ScaleSearch::find(RoundingMethod method, std::span<const float> weights, std::span<const float> importance,
                        const IntegerGrid& grid) {
  const float largest = largest_magnitude(weights);
  if (largest == 0.0F) {
    return 1.0F;
  }
  const float nearest = nearest_scale(weights, grid, largest);
  switch (method) {
    case RoundingMethod::RTN:
      return nearest;
    case RoundingMethod::MSE:
      return find_mse(weights, importance, grid, nearest, largest);
    case RoundingMethod::HQQ:
      return find_hqq(weights, grid, nearest);
    default:
      throw Error(ErrorCode::kUnsupported, std::string(to_string(method)), "needs calibration");
  }
}

// bfloat16 has 128 values an octave: every one in the range is tried. Scales in float32 are tried at even distances.
void ScaleSearch::add_candidates(const IntegerGrid& grid, float from, float to, int steps) {
  candidates_.clear();
  if (grid.scale_type == ElementType::kBF16) {
    const std::uint16_t first = kernels::scalar::f32_to_bf16_one(storable_scale(from, grid.scale_type));
    const std::uint16_t last = kernels::scalar::f32_to_bf16_one(storable_scale(to, grid.scale_type));
    for (std::uint16_t bits = last; bits >= first; --bits) {
      candidates_.push_back(kernels::scalar::bf16_to_f32_one(bits));
    }
    return;
  }
  for (int step = 0; step <= steps; ++step) {
    const float part = static_cast<float>(step) / static_cast<float>(steps);
    candidates_.push_back(storable_scale(to * (1.0F - part) + from * part, grid.scale_type));
  }
}

// `unit` is the power of two that normalized_ was divided by; scaling by it is exact. Errors are in its squares.
float ScaleSearch::best_candidate(std::span<const float> importance, const IntegerGrid& grid, float unit,
                                  float& error) {
  normalized_candidates_.resize(candidates_.size());
  std::ranges::transform(candidates_, normalized_candidates_.begin(), [&](float scale) { return scale / unit; });
  errors_.resize(candidates_.size());
  kernels::f32_squared_errors(normalized_.data(), importance.empty() ? nullptr : importance.data(), normalized_.size(),
                              normalized_candidates_.data(), errors_.data(), candidates_.size(), grid.low, grid.high);
  const auto best = std::ranges::min_element(errors_);
  error = *best;
  return candidates_[static_cast<std::size_t>(best - errors_.begin())];
}

float ScaleSearch::find_mse(std::span<const float> weights, std::span<const float> importance, const IntegerGrid& grid,
                            float nearest, float largest) {
  // Squares of very small or large weights leave float32's range, those of weights near 1 don't.
  const float unit = std::ldexp(1.0F, std::clamp(std::ilogb(largest), -100, 100));
  normalized_.resize(weights.size());
  std::ranges::transform(weights, normalized_.begin(), [&](float weight) { return weight / unit; });
  // From the scale at which the largest weight is `high`, whatever its sign, past the one at which a negative one is
  // `low`, to where much is clipped.
  const float most = nearest * (-grid.low / grid.high);
  const float least = nearest * (weights.size() < kLongRow ? kLeastOfGroup : kLeastOfRow);
  add_candidates(grid, least, most, kCoarseSteps);
  const kernels::MinMax range = kernels::f32_min_max(weights.data(), weights.size());
  candidates_.push_back(storable_scale(std::max(range.max / grid.high, range.min / grid.low), grid.scale_type));
  candidates_.push_back(nearest);
  float error = 0.0F;
  float best = best_candidate(importance, grid, unit, error);
  if (grid.scale_type == ElementType::kBF16) {
    // Nothing between the candidates can be stored.
    if (error < errors_.back() * kClearlyLess) {
      return best;
    }
    return is_better(weights, importance, best, nearest, grid) ? best : nearest;
  }
  const float step = (most - least) / static_cast<float>(kCoarseSteps);
  add_candidates(grid, best - step, best + step, kFineSteps);
  candidates_.push_back(best);
  best = best_candidate(importance, grid, unit, error);
  const float fitted = fit_scale(weights, importance, best, grid);
  if (is_better(weights, importance, fitted, best, grid)) {
    best = fitted;
  }
  return is_better(weights, importance, best, nearest, grid) ? best : nearest;
}

// Alternates e = shrink(w - q s) and s = <q, w - e> / <q, q>, and stops where the error no longer falls.
float ScaleSearch::find_hqq(std::span<const float> weights, const IntegerGrid& grid, float nearest) {
  normalized_.assign((weights.size() + kHqqMultiple - 1) / kHqqMultiple * kHqqMultiple, 0.0F);
  std::ranges::transform(weights, normalized_.begin(), [&](float weight) { return weight / nearest; });
  const auto sums_at = [&](float scale, float beta) {
    return kernels::f32_half_quadratic_sums(normalized_.data(), normalized_.size(), scale, beta, kNorm, grid.low,
                                            grid.high);
  };
  float beta = kFirstBeta;
  kernels::HalfQuadraticSums sums = sums_at(1.0F, beta);
  const float nearest_error = sums.lp_error;
  float best = 1.0F;
  float least_error = nearest_error;
  for (int iteration = 0; iteration < kHqqIterations && sums.q_dot_target > 0.0F; ++iteration) {
    const float scale = sums.q_dot_target / sums.q_dot_q;
    beta *= kBetaGrowth;
    sums = sums_at(scale, beta);
    if (sums.lp_error >= least_error) {
      break;
    }
    best = scale;
    least_error = sums.lp_error;
  }
  const float chosen = storable_scale(best * nearest, grid.scale_type);
  if (chosen == nearest) {
    return nearest;
  }
  const float error = sums_at(chosen / nearest, beta).lp_error;
  return error < nearest_error * kClearlyLess ? chosen : nearest;
}

void round_row(std::span<const float> weights, std::span<const float> importance, const WeightFormat& format,
               RoundingMethod method, ScaleSearch& search, std::byte* values, std::byte* scales) {
  const bool grouped = format.granularity == Granularity::kGroup;
  if (method == RoundingMethod::RTN && grouped && format.scale_type == ElementType::kBF16) {
    kernels::f32_to_i4_group_rtn(weights.data(), reinterpret_cast<std::uint8_t*>(values),
                                 reinterpret_cast<std::uint16_t*>(scales), weights.size(),
                                 static_cast<std::size_t>(format.group_size));
    return;
  }
  const IntegerGrid grid = integer_grid(format);
  const std::size_t size = grouped ? static_cast<std::size_t>(format.group_size) : weights.size();
  for (std::size_t begin = 0; begin < weights.size(); begin += size) {
    const std::span<const float> group = weights.subspan(begin, size);
    const float scale =
        search.find(method, group, importance.empty() ? importance : importance.subspan(begin, size), grid);
    if (format.bits() == 8) {
      kernels::f32_to_i8_rtn(group.data(), reinterpret_cast<std::int8_t*>(values + begin), size, scale);
    } else {
      kernels::f32_to_i4_rtn(group.data(), reinterpret_cast<std::uint8_t*>(values + begin / 2), size, scale);
    }
    store_scale(scale, format.scale_type, scales);
    scales += format.scale_bytes();
  }
}

}  // namespace diffulex_edge
