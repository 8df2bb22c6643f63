#include "backends/xnnpack/static_linear.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "diffulex_edge/error.h"
#include "quant/affine_scale.h"

namespace diffulex_edge::xnnpack {
namespace {

constexpr float kLeastNormal = std::numeric_limits<float>::min();

}  // namespace

StaticLinear::StaticLinear(const LayerPlan& plan) : layer_(plan.layer), packed_(plan.format.bits() == 4) {
  if (!plan.activations) {
    throw Error(ErrorCode::kInternal, layer_, "has no static activations");
  }
  input_ = affine_scale(plan.activations->input, 8);
  output_ = affine_scale(plan.activations->output, 8);
  if (packed_ && plan.columns % 2 != 0) {
    throw Error(ErrorCode::kUnsupported, layer_,
                "XNNPACK has no kernel for static activations with INT4 rows of odd length",
                "use --dtype int8, or exclude the layer");
  }
  const std::int64_t largest_product = packed_ ? 255 * 8 : 255 * 128;
  largest_bias_ = std::numeric_limits<std::int32_t>::max() - plan.columns * largest_product;
  if (largest_bias_ < 0) {
    throw Error(ErrorCode::kUnsupported, layer_,
                "sums over its input of " + std::to_string(plan.columns) + " may leave 32 bits in mode static",
                "use --mode dynamic, or exclude the layer");
  }
}

std::string StaticLinear::scales() const {
  const auto text = [](const AffineScale& affine) {
    return std::to_string(std::bit_cast<std::uint32_t>(affine.scale)) + "," + std::to_string(affine.zero_point);
  };
  return text(input_) + ";" + text(output_);
}

void StaticLinear::refine_zero_rows(std::span<float> weight_scales, std::span<const std::byte> values) const {
  const std::size_t row_bytes = values.size() / weight_scales.size();
  const std::byte zero{packed_ ? static_cast<unsigned char>(0x88) : static_cast<unsigned char>(0)};
  const double scale = static_cast<double>(output_.scale) / (256.0 * static_cast<double>(input_.scale));
  for (std::size_t row = 0; row < weight_scales.size(); ++row) {
    const auto weights = values.subspan(row * row_bytes, row_bytes);
    if (std::ranges::all_of(weights, [&](std::byte weight) { return weight == zero; })) {
      weight_scales[row] = static_cast<float>(std::clamp(scale, static_cast<double>(kLeastNormal), 1e38));
    }
  }
}

void StaticLinear::check(std::span<const float> weight_scales) const {
  for (std::size_t row = 0; row < weight_scales.size(); ++row) {
    // In float32 and in this order, as XNNPACK does.
    const float requantization = input_.scale * weight_scales[row] / output_.scale;
    if (!(requantization < 256.0F)) {
      throw Error(ErrorCode::kUnsupported, layer_,
                  "one step of the input times one of the weights in row " + std::to_string(row) + " is " +
                      std::to_string(requantization) +
                      " steps of the output, and XNNPACK takes less than 256: the ranges of its activations do not "
                      "belong to these weights",
                  "calibrate again, or exclude the layer");
    }
  }
}

std::vector<float> StaticLinear::bias_scales(std::span<const float> weight_scales) const {
  std::vector<float> scales;
  for (const float scale : weight_scales) {
    scales.push_back(std::clamp(input_.scale * scale, kLeastNormal, std::numeric_limits<float>::max()));
  }
  return scales;
}

std::vector<std::int32_t> StaticLinear::quantize_bias(std::span<const float> bias,
                                                      std::span<const float> weight_scales) const {
  std::vector<std::int32_t> steps;
  for (std::size_t row = 0; row < bias.size(); ++row) {
    const double step = static_cast<double>(input_.scale) * static_cast<double>(weight_scales[row]);
    const double rounded = std::nearbyint(static_cast<double>(bias[row]) / step);
    if (!(std::fabs(rounded) <= static_cast<double>(largest_bias_))) {
      throw Error(ErrorCode::kUnsupported, layer_,
                  "its bias in row " + std::to_string(row) + " is " + std::to_string(rounded) +
                      " steps of the row's sums, which may leave 32 bits",
                  "exclude the layer, or use --mode dynamic");
    }
    steps.push_back(static_cast<std::int32_t>(rounded));
  }
  return steps;
}

}  // namespace diffulex_edge::xnnpack
