// Finds the scale of a group or row of weights: of round-to-nearest, of least squared error, or by half-quadratic
// quantization. docs/QUANTIZATION.md has the formulas.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "diffulex_edge/quantization.h"
#include "diffulex_edge/weight_format.h"

namespace diffulex_edge {

// The integers of a quantized format and the type of its scales.
struct IntegerGrid {
  float low = -8.0F;
  float high = 7.0F;
  ElementType scale_type = ElementType::kF32;
};
IntegerGrid integer_grid(const WeightFormat& format);

// The nearest scale that a format can store: rounded to its type, normal, finite.
float storable_scale(float scale, ElementType type);

// Writes it as that type, to any address.
void store_scale(float scale, ElementType type, std::byte* target);

// q = clamp(round(weight / scale), low, high). Adding 1.5 * 2^23 leaves no bit below 1 in a float, so that the sum is
// rounded to nearest even; as the bounds are integers, it does not matter that they come first.
inline float nearest_integer(float weight, float scale, const IntegerGrid& grid) {
  constexpr float kMagic = 12582912.0F;
  return (std::clamp(weight / scale, grid.low, grid.high) + kMagic) - kMagic;
}

// One thread's buffers. All weights are finite; `importance`, if not empty, has a factor >= 0 for each weight's squared
// error (for method RTN and HQQ it is not used). All scales are storable; a group of zeros has scale 1.
class ScaleSearch {
 public:
  // For RTN, MSE or HQQ. MSE and HQQ return RTN's scale unless theirs has a lower error; where float32 can't tell, in
  // double precision with the integers as they will be stored.
  float find(RoundingMethod method, std::span<const float> weights, std::span<const float> importance,
             const IntegerGrid& grid);

 private:
  float find_mse(std::span<const float> weights, std::span<const float> importance, const IntegerGrid& grid,
                 float nearest, float largest);
  float find_hqq(std::span<const float> weights, const IntegerGrid& grid, float nearest);
  void add_candidates(const IntegerGrid& grid, float from, float to, int steps);
  float best_candidate(std::span<const float> importance, const IntegerGrid& grid, float unit, float& error);

  std::vector<float> normalized_;
  std::vector<float> candidates_;
  std::vector<float> normalized_candidates_;
  std::vector<float> errors_;
};

// Sum of importance * (w - q * scale)^2 in double precision, with the integers that are stored.
double squared_error(std::span<const float> weights, std::span<const float> importance, float scale,
                     const IntegerGrid& grid);

// Encodes one row of finite weights into a quantized format, laid out as encode_rows writes it. `importance` is empty
// or has `weights.size()` elements.
void round_row(std::span<const float> weights, std::span<const float> importance, const WeightFormat& format,
               RoundingMethod method, ScaleSearch& search, std::byte* values, std::byte* scales);

}  // namespace diffulex_edge
