#include "quant/static_graph.h"

#include <algorithm>
#include <cmath>
#include <ranges>
#include <string>

#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

constexpr float kHeadroom = 1.25F;
constexpr float kMaskDistance16 = 16.0F;
constexpr float kMaskDistance8 = 8.0F;
// The least value of x * sigmoid(x), at x = -1.278.
constexpr float kSiluPlace = -1.2784645F;
constexpr float kSiluLeast = -0.27846455F;

float silu(float x) { return x / (1.0F + std::exp(-x)); }

}  // namespace

const GraphActivations& observed_ranges(const Graph& graph, const CalibrationFindings& findings) {
  const auto& found = findings.graph;
  if (!found || found->values.size() != graph.nodes().size()) {
    throw Error(ErrorCode::kInvalidArgument, "mode static", "needs the ranges of all activations",
                "give calibration data (--calibration FILE)");
  }
  const auto check = [](const ActivationRange& range) {
    if (!std::isfinite(range.min) || !std::isfinite(range.max) || range.min > 0.0F || range.max < 0.0F) {
      throw Error(ErrorCode::kInvalidArgument, "mode static",
                  "activations are said to lie in [" + std::to_string(range.min) + ", " + std::to_string(range.max) +
                      "], which is not a range with 0",
                  "calibrate again");
    }
  };
  std::ranges::for_each(found->values, check);
  std::ranges::for_each(found->scores | std::views::values, check);
  return *found;
}

const ActivationRange& observed_scores(const GraphActivations& observed, ValueId attention) {
  const auto found = observed.scores.find(attention);
  if (found == observed.scores.end()) {
    throw Error(ErrorCode::kInvalidArgument, "mode static", "needs the range of each attention's scores",
                "calibrate again");
  }
  return found->second;
}

ActivationRange with_headroom(const ActivationRange& observed, int bits) {
  return bits > 8 ? scaled(observed, kHeadroom) : observed;
}

ActivationRange range_of(std::span<const float> values) {
  ActivationRange range;
  for (const float value : values) {
    range.min = std::min(range.min, value);
    range.max = std::max(range.max, value);
  }
  return range;
}

ActivationRange scaled(const ActivationRange& x, float factor) {
  const float first = x.min * factor;
  const float second = x.max * factor;
  return {.min = std::min(first, second), .max = std::max(first, second)};
}

ActivationRange around_zero(const ActivationRange& x) {
  const float largest = std::max(-x.min, x.max);
  return {.min = -largest, .max = largest};
}

ActivationRange silu_range(const ActivationRange& x) {
  return {.min = x.min < kSiluPlace ? kSiluLeast : std::min(0.0F, silu(x.min)), .max = std::max(0.0F, silu(x.max))};
}

ActivationRange masked_range(const ActivationRange& scores, int bits) {
  return {.min = scores.min - (bits > 8 ? kMaskDistance16 : kMaskDistance8), .max = scores.max};
}

}  // namespace diffulex_edge
