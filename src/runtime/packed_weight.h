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
// by row. All of it, scales included, is one piece of memory, which may be a part of a file.
class PackedWeight {
 public:
  // Room for [rows, columns] in `format`: FP32, FP16, INT8 per channel, INT4 per channel or in groups. Throws
  // Error{kOutOfMemory}, and Error{kUnsupported} for what can_hold() denies.
  PackedWeight(std::int64_t rows, std::int64_t columns, const WeightFormat& format);

  // The same weight as image() of another one shows it, in place: `image` is image_bytes() long, begins a cache line
  // and stays as long as `owner`.
  PackedWeight(std::int64_t rows, std::int64_t columns, const WeightFormat& format, std::span<const std::byte> image,
               std::shared_ptr<const void> owner);

  // What is in memory, byte for byte; the same on every machine of this byte order.
  std::span<const std::byte> image() const { return {reinterpret_cast<const std::byte*>(memory_), image_bytes()}; }
  std::size_t image_bytes() const { return sections_.end; }

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
  const float* floats() const { return reinterpret_cast<const float*>(memory_); }

 private:
  // Where what lies in memory, in bytes; each begins a cache line.
  struct Sections {
    std::size_t group_scales = 0;
    std::size_t row_scales = 0;
    std::size_t row_sums = 0;
    std::size_t row_totals = 0;
    std::size_t end = 0;
  };

  void lay_out();
  bool has_groups() const { return format_.granularity == Granularity::kGroup; }
  const std::uint16_t* group_scales() const { return at<std::uint16_t>(sections_.group_scales); }
  const float* row_scales() const { return at<float>(sections_.row_scales); }
  template <typename T>
  const T* at(std::size_t offset) const {
    return reinterpret_cast<const T*>(memory_ + offset);
  }
  // For store().
  template <typename T>
  T* stored_at(std::size_t offset) {
    return reinterpret_cast<T*>(own_ + offset);
  }

  void store_halves(std::int64_t row, const std::byte* values);
  void store_int8(std::int64_t row, const std::byte* values);
  void store_int4(std::int64_t row, const std::byte* values);
  void store_scales(std::int64_t row, const std::byte* values, const std::byte* scales);
  std::int32_t sum_of(const std::byte* values, std::int64_t begin, std::int64_t count) const;
  // Where the bytes of a row's first columns are.
  std::size_t first_step(std::int64_t row) const;
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
  Sections sections_;
  std::shared_ptr<const void> owner_;
  const std::uint8_t* memory_ = nullptr;
  std::uint8_t* own_ = nullptr;  // the same, where it is this weight's own
};

}  // namespace diffulex_edge
