// A quantized weight taken apart: an integer for each element and a float32 for each scale.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "diffulex_edge/weight_format.h"
#include "quant/rounding.h"

namespace diffulex_edge {

struct IntegerWeight {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t run = 0;             // neighbours in a row that share a scale
  std::vector<std::int8_t> values;  // [rows, columns]
  std::vector<float> scales;        // [rows, columns / run], storable in the format

  IntegerWeight(std::int64_t row_count, std::int64_t column_count, const WeightFormat& format);

  std::int64_t scales_per_row() const { return columns / run; }
  std::int8_t* row(std::int64_t index) { return values.data() + index * columns; }
  float* row_scales(std::int64_t index) { return scales.data() + index * scales_per_row(); }
};

// The integer in [-8, 7] of column i in a row that is stored as INT4.
inline int int4_at(const std::byte* row, std::int64_t i) {
  const auto pair = std::to_integer<int>(row[i / 2]);
  return (i % 2 == 0 ? pair & 15 : pair >> 4) - 8;
}

// Into and out of the stored layout; exact.
void pack(const IntegerWeight& weight, const WeightFormat& format, RoundedWeight& target);
IntegerWeight unpack(const RoundedWeight& weight, std::int64_t rows, std::int64_t columns, const WeightFormat& format);

// Throws Error{kInvalidArgument} unless `weight` and the statistics, if given, are of this shape.
void check_layer(std::span<const float> weight, std::int64_t rows, std::int64_t columns,
                 const InputStatistics* statistics);
// Throws Error{kInvalidArgument} naming the first element that is not finite.
void check_finite(std::span<const float> weight, std::int64_t columns);

}  // namespace diffulex_edge
