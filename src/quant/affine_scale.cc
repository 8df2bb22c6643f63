// Static scales of activations.

#include "quant/affine_scale.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "diffulex_edge/error.h"
#include "diffulex_edge/quantization.h"

namespace diffulex_edge {

AffineScale affine_scale(const ActivationRange& range, int bits) {
  if (bits != 8 && bits != 16) {
    throw Error(ErrorCode::kInvalidArgument, "activation bits", std::to_string(bits) + " is not 8 or 16");
  }
  if (!std::isfinite(range.min) || !std::isfinite(range.max) || range.min > range.max) {
    throw Error(ErrorCode::kInvalidArgument, "activation range",
                "[" + std::to_string(range.min) + ", " + std::to_string(range.max) + "] is not a range");
  }
  const double lowest = -std::ldexp(1.0, bits - 1);
  const double highest = -lowest - 1.0;
  const double min = std::min(0.0, static_cast<double>(range.min));
  const double max = std::max(0.0, static_cast<double>(range.max));
  if (min == max) {
    return {};
  }
  const auto scale = std::max(static_cast<float>((max - min) / (highest - lowest)), std::numeric_limits<float>::min());
  const double zero_point = std::nearbyint(lowest - min / static_cast<double>(scale));
  return {.scale = scale, .zero_point = static_cast<std::int32_t>(std::clamp(zero_point, lowest, highest))};
}

}  // namespace diffulex_edge
