// Weights of one byte an element, INT8 or FP8, with scales for blocks of rows and columns.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "checkpoint/row_decoder.h"
#include "diffulex_edge/checkpoint.h"

namespace diffulex_edge {

// How rows and columns share scales: scale (i / rows, j / columns) of the scales' rows and columns.
struct ScaleBlocks {
  std::int64_t rows = 1;
  std::int64_t columns = 1;
  std::int64_t scales_per_row = 1;
};

// The blocks of scales of shape [], [1], [rows], [rows, 1] or [rows, groups] beside a weight [rows, columns]; with
// `block_rows`, of shape [ceil(rows / block_rows), ceil(columns / block_columns)]. Throws Error{kBadFile} for another
// one.
ScaleBlocks scale_blocks(const TensorView& scales, std::int64_t rows, std::int64_t columns, std::int64_t block_rows,
                         std::int64_t block_columns);
// "per tensor", "per channel", "in groups of 128", "in blocks of 128 x 128"
std::string to_string(const ScaleBlocks& blocks, std::int64_t rows, std::int64_t columns);

// value = (element - zero) * scale; `zeros`, of the scales' shape and type I8, may be absent.
std::unique_ptr<const RowDecoder> make_scaled_weight(const TensorView& values, const TensorView& scales,
                                                     const TensorView* zeros, const ScaleBlocks& blocks,
                                                     std::string what);

}  // namespace diffulex_edge
