// Static scales of activations.
#pragma once

#include <cstdint>

#include "diffulex_edge/activations.h"

namespace diffulex_edge {

// q = clamp(round(x / scale) + zero_point), x is about (q - zero_point) * scale.
struct AffineScale {
  float scale = 1.0F;
  std::int32_t zero_point = 0;

  friend bool operator==(const AffineScale&, const AffineScale&) = default;
};

// The scale with which signed integers of `bits` bits (8 or 16) cover `range`: (max - min) / (2^bits - 1), at least the
// least normal float32; 0 is represented exactly.
AffineScale affine_scale(const ActivationRange& range, int bits);

}  // namespace diffulex_edge
