#include "checkpoint/prequantized/scaled_weight.h"

#include <algorithm>
#include <array>
#include <utility>

#include "checkpoint/prequantized/packed_values.h"

namespace diffulex_edge {
namespace {

// Every byte's value.
std::array<float, 256> value_table(DType dtype) {
  std::array<float, 256> table{};
  std::array<std::byte, 256> all{};
  for (std::size_t i = 0; i < all.size(); ++i) {
    all[i] = static_cast<std::byte>(i);
  }
  const TensorView view{.name = {}, .dtype = dtype, .shape = {256}, .bytes = all};
  for (std::size_t i = 0; i < table.size(); ++i) {
    table[i] = float_at(view, static_cast<std::int64_t>(i));
  }
  return table;
}

class ScaledWeight final : public RowDecoder {
 public:
  ScaledWeight(const TensorView& values, const TensorView& scales, const TensorView* zeros, const ScaleBlocks& blocks,
               std::string what)
      : RowDecoder(values.name, values.shape, std::move(what), parts_of(values, scales, zeros)),
        blocks_(blocks),
        table_(value_table(values.dtype)) {}

  void decode(std::int64_t row_begin, std::int64_t count, std::span<float> target) const override {
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t row = row_begin + i;
      const std::byte* source = part(0).bytes.data() + row * columns();
      float* values = target.data() + i * columns();
      for (std::int64_t begin = 0; begin < columns(); begin += blocks_.columns) {
        const std::int64_t at = row / blocks_.rows * blocks_.scales_per_row + begin / blocks_.columns;
        const float scale = float_at(part(1), at);
        const float zero = parts().size() > 2 ? float_at(part(2), at) : 0.0F;
        const std::int64_t end = std::min(columns(), begin + blocks_.columns);
        for (std::int64_t j = begin; j < end; ++j) {
          values[j] = (table_[static_cast<std::size_t>(source[j])] - zero) * scale;
        }
      }
    }
  }

 private:
  static std::vector<Part> parts_of(const TensorView& values, const TensorView& scales, const TensorView* zeros) {
    std::vector<Part> parts = {{.view = values, .layout = RowLayout::kConsecutive},
                               {.view = scales, .layout = RowLayout::kTable}};
    if (zeros != nullptr) {
      parts.push_back({.view = *zeros, .layout = RowLayout::kTable});
    }
    return parts;
  }

  ScaleBlocks blocks_;
  std::array<float, 256> table_;
};

std::int64_t blocks_in(std::int64_t size, std::int64_t block) { return (size + block - 1) / block; }

}  // namespace

ScaleBlocks scale_blocks(const TensorView& scales, std::int64_t rows, std::int64_t columns, std::int64_t block_rows,
                         std::int64_t block_columns) {
  if (block_rows > 0 && scales.shape.size() == 2) {
    require_shape(scales, {blocks_in(rows, block_rows), blocks_in(columns, block_columns)});
    return {.rows = block_rows, .columns = block_columns, .scales_per_row = scales.shape[1]};
  }
  const std::int64_t count = scales.elements();
  if (count == 1) {
    return {.rows = rows, .columns = columns, .scales_per_row = 1};
  }
  const std::int64_t per_row = scales.shape.size() == 2 ? scales.shape[1] : 1;
  if (scales.shape.empty() || scales.shape.size() > 2 || scales.shape[0] != rows || per_row < 1 ||
      columns % per_row != 0) {
    fail_tensor(scales, "has the shape " + shape_string(scales) + ", which does not fit a weight of " +
                            std::to_string(rows) + " x " + std::to_string(columns));
  }
  return {.rows = 1, .columns = columns / per_row, .scales_per_row = per_row};
}

std::string to_string(const ScaleBlocks& blocks, std::int64_t rows, std::int64_t columns) {
  if (blocks.rows > 1 && (blocks.rows < rows || blocks.columns < columns)) {
    return "in blocks of " + std::to_string(blocks.rows) + " x " + std::to_string(blocks.columns);
  }
  if (blocks.rows >= rows && blocks.columns >= columns) {
    return "per tensor";
  }
  return blocks.columns >= columns ? "per channel" : "in groups of " + std::to_string(blocks.columns);
}

std::unique_ptr<const RowDecoder> make_scaled_weight(const TensorView& values, const TensorView& scales,
                                                     const TensorView* zeros, const ScaleBlocks& blocks,
                                                     std::string what) {
  return std::make_unique<const ScaledWeight>(values, scales, zeros, blocks, std::move(what));
}

}  // namespace diffulex_edge
