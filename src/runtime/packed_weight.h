// A weight in memory as the packed kernels take it: 4, 8, 16 or 32 bits an element, and its scales.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <vector>

#include "diffulex_edge/weight_format.h"
#include "quant/weight_stream.h"
#include "runtime/kernels/packed_kernels.h"

namespace diffulex_edge {

// Integers and binary16 lie in panels of 16 rows, the last one filled up with rows that nobody reads; float32 lies row
// by row.
class PackedWeight {
 public:
  // Room for [rows, columns] in `format`: FP32, FP16, INT8 per channel, INT4 per channel or in groups. Throws
  // Error{kOutOfMemory}, and Error{kUnsupported} for what can_hold() denies.
  PackedWeight(std::int64_t rows, std::int64_t columns, const WeightFormat& format);

  static constexpr std::int64_t kMostInt8Columns = 65793;  // 128 * 255 * columns fit in 32 bits
  // Whether 32 bits hold the sums of such rows.
  static bool can_hold(std::int64_t columns, const WeightFormat& format);

  // Takes rows as stream_weights encodes them. Different rows may be stored from several threads at once; each row has
  // to be stored once before the weight is used.
  void store(const EncodedTile& tile);

  std::int64_t rows() const { return rows_; }
  std::int64_t columns() const { return columns_; }
  const WeightFormat& format() const { return format_; }
  bool is_float32() const { return format_.element == ElementType::kF32; }
  // Of the elements with what fills up panels, scales, and a sum for each row of integers.
  std::int64_t bytes() const;

  // What the elements of a row stand for: the values that decode_rows gives.
  void decode_row(std::int64_t row, std::span<float> target) const;

  // All but FP32. Activations have as many columns as the panels.
  std::int64_t panel_count() const { return panels_; }
  std::int64_t padded_columns() const { return padded_columns_; }
  kernels::PackedPanels panels(std::int64_t first, std::int64_t count) const;

  // Only FP32: [rows, columns].
  const float* floats() const { return reinterpret_cast<const float*>(values_.get()); }

 private:
  struct Free {
    void operator()(std::uint8_t* memory) const { std::free(memory); }
  };

  void store_halves(std::int64_t row, const std::byte* values);
  void store_int8(std::int64_t row, const std::byte* values);
  void store_int4(std::int64_t row, const std::byte* values);
  void store_scales(std::int64_t row, const std::byte* values, const std::byte* scales);
  std::int32_t sum_of(const std::byte* values, std::int64_t begin, std::int64_t count) const;
  // The bytes of a row's first columns.
  std::uint8_t* first_step(std::int64_t row) const;
  float scale(std::int64_t row, std::int64_t group) const;
  std::size_t scale_index(std::int64_t row, std::int64_t group) const;

  std::int64_t rows_;
  std::int64_t columns_;
  WeightFormat format_;
  kernels::PackedElement element_ = kernels::PackedElement::kF16;
  std::int64_t padded_columns_ = 0;
  std::int64_t panels_ = 0;
  std::int64_t groups_ = 1;
  std::size_t value_bytes_ = 0;
  std::unique_ptr<std::uint8_t[], Free> values_;  // begins a cache line
  std::vector<std::uint16_t> group_scales_;
  std::vector<float> row_scales_;
  std::vector<std::int32_t> row_sums_;
  std::vector<float> row_totals_;
};

}  // namespace diffulex_edge
