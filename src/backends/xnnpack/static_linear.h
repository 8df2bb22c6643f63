// A linear layer whose activations have fixed scales (XNNPACK's qs8 x qc8w and qs8 x qc4w): what depends on the scales
// of its weights, and so is known only when these have been streamed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "diffulex_edge/quantization.h"
#include "quant/affine_scale.h"

namespace diffulex_edge::xnnpack {

// The kernel computes, in integers of 32 bits, sum = bias + (x - x.zero_point) * w, and gives
// clamp(round(sum * (input.scale * weight_scale / output.scale)) + output.zero_point), rounding ties to even.
class StaticLinear {
 public:
  // Throws Error{kUnsupported} where sums of so many columns can leave 32 bits, and for INT4 rows of odd length, which
  // XNNPACK computes wrong here. `plan` has activations.
  explicit StaticLinear(const LayerPlan& plan);

  const AffineScale& input() const { return input_; }
  const AffineScale& output() const { return output_; }
  // Both, exactly, as text.
  std::string scales() const;

  // A row of zeros can have any scale. Its own, usually 1, may be coarser than the output's steps, and its bias is
  // counted in it: it gets one with which 256 steps of the sum are one of the output. `values` are the rows' stored
  // weights.
  void refine_zero_rows(std::span<float> weight_scales, std::span<const std::byte> values) const;
  // Throws Error{kUnsupported} for scales that XNNPACK refuses when it loads the file: 256 output steps or more for one
  // step of the sum.
  void check(std::span<const float> weight_scales) const;
  // The declared scales of the bias: those of the sums, raised to what XNNPACK accepts; it does not compute with them.
  std::vector<float> bias_scales(std::span<const float> weight_scales) const;
  // The bias in steps of the sums. Throws Error{kUnsupported} where it, and what is added to it, can leave 32 bits.
  std::vector<std::int32_t> quantize_bias(std::span<const float> bias, std::span<const float> weight_scales) const;

 private:
  std::string layer_;
  bool packed_ = false;  // two weights in a byte
  AffineScale input_;
  AffineScale output_;
  std::int64_t largest_bias_ = 0;
};

}  // namespace diffulex_edge::xnnpack
