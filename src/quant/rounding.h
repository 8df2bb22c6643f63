// Rounding methods that choose a weight's integers and scales better than round-to-nearest.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "diffulex_edge/progress.h"
#include "diffulex_edge/quantization.h"
#include "diffulex_edge/weight_format.h"

namespace diffulex_edge {

// What calibration saw of a linear layer's input x, over all its tokens (weighted, if it weighs them).
struct InputStatistics {
  std::int64_t columns = 0;
  double weight = 0.0;          // sum of the tokens' weights
  std::vector<float> hessian;   // [columns, columns]: sum of weight * x x^T; symmetric
  std::vector<float> mean_abs;  // [columns]: weighted mean of |x|
};

// A weight matrix [rows, columns] in a quantized format, laid out as encode_rows writes it.
struct RoundedWeight {
  std::vector<std::byte> values;
  std::vector<std::byte> scales;
};

}  // namespace diffulex_edge
