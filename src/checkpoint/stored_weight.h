// A weight as a checkpoint stores it: plain floats, our own quantized layout, or another program's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "diffulex_edge/checkpoint.h"
#include "diffulex_edge/weight_format.h"

namespace diffulex_edge {

// The stored layout of `diffulex-edge quantize`, for a weight named NAME:
//   INT8  NAME int8 [rows, columns],      NAME_scale float32 [rows]
//   INT4  NAME uint8 [rows, columns / 2], NAME_scale bfloat16 [rows, columns / group] or float32 [rows]
// Weights that another program has quantized are float32 here, which `values->decoder` computes.
struct StoredWeight {
  const TensorView* values = nullptr;
  const TensorView* scales = nullptr;  // nullptr for floats
  WeightFormat format;
  std::int64_t rows = 1;  // 1 for vectors
  std::int64_t columns = 0;

  std::int64_t source_bytes() const;
  // Of the values of one row, rounded down where they have no bytes of their own.
  std::int64_t row_bytes() const;
  // After reading: throws Error{kBadFile} where a file could no longer be read.
  void check() const;
  // The values of rows [row_begin, row_begin + count) in the file. Not of a weight with a decoder.
  std::span<const std::byte> value_rows(std::int64_t row_begin, std::int64_t count) const;
  // Hints about these rows' pages, as MappedFile has them; `release` throws as `check`.
  void will_need(std::int64_t row_begin, std::int64_t count) const;
  void release(std::int64_t row_begin, std::int64_t count) const;
};

// Throws Error{kBadFile} where the tensor is absent, of another type, or of more than two dimensions, or where its
// scales are missing or of a shape that does not fit.
StoredWeight find_stored_weight(const Checkpoint& checkpoint, std::string_view name);

}  // namespace diffulex_edge
