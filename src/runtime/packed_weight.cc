#include "runtime/packed_weight.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "core/round_up.h"
#include "diffulex_edge/error.h"
#include "quant/kernels/kernels.h"

namespace diffulex_edge {
namespace {

constexpr auto kPanelRows = static_cast<std::int64_t>(kernels::kPanelRows);
constexpr auto kIntegerStep = static_cast<std::int64_t>(kernels::step_bytes(kernels::PackedElement::kI4));
constexpr auto kHalfStep = static_cast<std::int64_t>(kernels::step_bytes(kernels::PackedElement::kF16));
constexpr std::size_t kCacheLine = 64;

kernels::PackedElement packed_element(const WeightFormat& format) {
  switch (format.element) {
    case ElementType::kF16:
      return kernels::PackedElement::kF16;
    case ElementType::kI8:
      return kernels::PackedElement::kI8;
    case ElementType::kI4:
      return kernels::PackedElement::kI4;
    default:
      throw Error(ErrorCode::kInternal, {}, "no packed weight is stored as " + to_string(format.element));
  }
}

// What fills up rows and columns.
int zero_byte(kernels::PackedElement element) {
  switch (element) {
    case kernels::PackedElement::kI8:
      return 0x80;
    case kernels::PackedElement::kI4:
      return 0x88;
    case kernels::PackedElement::kF16:
      break;
  }
  return 0;
}

}  // namespace

bool PackedWeight::can_hold(std::int64_t columns, const WeightFormat& format) {
  return format.element != ElementType::kI8 || columns <= kMostInt8Columns;
}

PackedWeight::PackedWeight(std::int64_t rows, std::int64_t columns, const WeightFormat& format)
    : rows_(rows), columns_(columns), format_(format) {
  if (is_float32()) {
    value_bytes_ = static_cast<std::size_t>(rows * columns) * sizeof(float);
  } else {
    element_ = packed_element(format);
    if (!can_hold(columns, format)) {
      throw Error(ErrorCode::kUnsupported, "int8 layer",
                  std::to_string(columns) + " inputs: sums of 32 bits hold " + std::to_string(kMostInt8Columns));
    }
    panels_ = round_up(rows, kPanelRows) / kPanelRows;
    const auto width = static_cast<std::int64_t>(kernels::step_columns(element_));
    padded_columns_ = round_up(columns, width);
    value_bytes_ = static_cast<std::size_t>(panels_ * padded_columns_ / width) * kernels::step_bytes(element_);
    const auto padded_rows = static_cast<std::size_t>(panels_ * kPanelRows);
    if (format.granularity == Granularity::kGroup) {
      groups_ = columns / format.group_size;
      group_scales_.resize(padded_rows * static_cast<std::size_t>(groups_));
      row_totals_.resize(padded_rows);
    } else if (format.is_quantized()) {
      row_scales_.resize(padded_rows);
      row_sums_.resize(padded_rows);
    }
  }
  const std::size_t lines = value_bytes_ / kCacheLine + 1;
  values_.reset(static_cast<std::uint8_t*>(std::aligned_alloc(kCacheLine, lines * kCacheLine)));
  if (values_ == nullptr) {
    throw Error(ErrorCode::kOutOfMemory, "packed weight", "needs " + std::to_string(value_bytes_) + " bytes");
  }
  std::memset(values_.get(), zero_byte(element_), value_bytes_);
}

std::int64_t PackedWeight::bytes() const {
  const std::size_t scales = group_scales_.size() * sizeof(std::uint16_t) + row_scales_.size() * sizeof(float);
  const std::size_t sums = row_sums_.size() * sizeof(std::int32_t) + row_totals_.size() * sizeof(float);
  return static_cast<std::int64_t>(value_bytes_ + scales + sums);
}

void PackedWeight::store(const EncodedTile& tile) {
  const std::int64_t value_bytes = format_.row_bytes(columns_);
  const std::int64_t scale_bytes = format_.scales_per_row(columns_) * format_.scale_bytes();
  for (std::int64_t i = 0; i < tile.rows; ++i) {
    const std::int64_t row = tile.row_begin + i;
    const std::byte* values = tile.values.data() + i * value_bytes;
    switch (format_.element) {
      case ElementType::kI8:
        store_int8(row, values);
        break;
      case ElementType::kI4:
        store_int4(row, values);
        break;
      case ElementType::kF16:
        store_halves(row, values);
        break;
      default:
        std::memcpy(values_.get() + row * value_bytes, values, static_cast<std::size_t>(value_bytes));
    }
    if (format_.is_quantized()) {
      store_scales(row, values, tile.scales.data() + i * scale_bytes);
    }
  }
}

std::uint8_t* PackedWeight::first_step(std::int64_t row) const {
  const auto width = static_cast<std::int64_t>(kernels::step_columns(element_));
  const auto bytes = static_cast<std::int64_t>(kernels::step_bytes(element_));
  return values_.get() + row / kPanelRows * (padded_columns_ / width * bytes) + row % kPanelRows * (bytes / kPanelRows);
}

void PackedWeight::store_halves(std::int64_t row, const std::byte* values) {
  std::uint8_t* target = first_step(row);
  for (std::int64_t column = 0; column < columns_; ++column, target += kHalfStep) {
    std::memcpy(target, values + 2 * column, sizeof(std::uint16_t));
  }
}

void PackedWeight::store_int8(std::int64_t row, const std::byte* values) {
  std::uint8_t* target = first_step(row);
  for (std::int64_t begin = 0; begin < columns_; begin += 4, target += kIntegerStep) {
    std::uint32_t four = 0;
    std::memcpy(&four, values + begin, static_cast<std::size_t>(std::min<std::int64_t>(4, columns_ - begin)));
    four ^= 0x80808080U;  // q + 128
    std::memcpy(target, &four, sizeof(four));
  }
}

// Columns 0..7 come as nibbles of four bytes, low first, and go as (0, 4), (1, 5), (2, 6), (3, 7).
void PackedWeight::store_int4(std::int64_t row, const std::byte* values) {
  const std::int64_t row_bytes = format_.row_bytes(columns_);
  std::uint8_t* target = first_step(row);
  for (std::int64_t begin = 0; begin < row_bytes; begin += 4, target += kIntegerStep) {
    std::uint8_t pairs[4] = {0x88, 0x88, 0x88, 0x88};
    std::memcpy(pairs, values + begin, static_cast<std::size_t>(std::min<std::int64_t>(4, row_bytes - begin)));
    for (std::size_t i = 0; i < 2; ++i) {
      target[2 * i] = static_cast<std::uint8_t>((pairs[i] & 0x0FU) | (pairs[i + 2] & 0x0FU) << 4U);
      target[2 * i + 1] = static_cast<std::uint8_t>(pairs[i] >> 4U | (pairs[i + 2] & 0xF0U));
    }
  }
}

std::size_t PackedWeight::scale_index(std::int64_t row, std::int64_t group) const {
  return static_cast<std::size_t>((row / kPanelRows * groups_ + group) * kPanelRows + row % kPanelRows);
}

float PackedWeight::scale(std::int64_t row, std::int64_t group) const {
  return group_scales_.empty() ? row_scales_[static_cast<std::size_t>(row)]
                               : kernels::scalar::bf16_to_f32_one(group_scales_[scale_index(row, group)]);
}

// Of neighbours in a row as it is encoded. The nibble that fills up an odd row stands for 0.
std::int32_t PackedWeight::sum_of(const std::byte* values, std::int64_t begin, std::int64_t count) const {
  std::int32_t sum = 0;
  if (element_ == kernels::PackedElement::kI8) {
    for (std::int64_t i = begin; i < begin + count; ++i) {
      sum += static_cast<std::int8_t>(values[i]);
    }
    return sum;
  }
  for (std::int64_t i = begin / 2; i < (begin + count + 1) / 2; ++i) {
    const auto pair = std::to_integer<std::int32_t>(values[i]);
    sum += (pair & 0x0F) + (pair >> 4) - 16;
  }
  return sum;
}

void PackedWeight::store_scales(std::int64_t row, const std::byte* values, const std::byte* scales) {
  if (group_scales_.empty()) {
    std::memcpy(&row_scales_[static_cast<std::size_t>(row)], scales, sizeof(float));
    row_sums_[static_cast<std::size_t>(row)] = sum_of(values, 0, columns_);
    return;
  }
  double total = 0.0;
  for (std::int64_t group = 0; group < groups_; ++group) {
    std::memcpy(&group_scales_[scale_index(row, group)], scales + group * 2, sizeof(std::uint16_t));
    const std::int32_t sum = sum_of(values, group * format_.group_size, format_.group_size);
    total += static_cast<double>(sum) * static_cast<double>(scale(row, group));
  }
  row_totals_[static_cast<std::size_t>(row)] = static_cast<float>(total);
}

void PackedWeight::decode_row(std::int64_t row, std::span<float> target) const {
  if (is_float32()) {
    std::copy_n(floats() + row * columns_, columns_, target.begin());
    return;
  }
  const std::uint8_t* steps = first_step(row);
  if (element_ == kernels::PackedElement::kF16) {
    for (std::int64_t column = 0; column < columns_; ++column) {
      std::uint16_t half = 0;
      std::memcpy(&half, steps + column * kHalfStep, sizeof(half));
      target[static_cast<std::size_t>(column)] = kernels::scalar::f16_to_f32_one(half);
    }
    return;
  }
  const std::int64_t group_columns = columns_ / groups_;
  for (std::int64_t group = 0; group < groups_; ++group) {
    const float group_scale = scale(row, group);
    for (std::int64_t column = group * group_columns; column < (group + 1) * group_columns; ++column) {
      std::int32_t q = 0;
      if (element_ == kernels::PackedElement::kI8) {
        q = steps[column / 4 * kIntegerStep + column % 4] - 128;
      } else {
        const std::uint8_t byte = steps[column / 8 * kIntegerStep + column % 4];
        q = (column % 8 < 4 ? byte & 0x0F : byte >> 4) - 8;
      }
      target[static_cast<std::size_t>(column)] = static_cast<float>(q) * group_scale;
    }
  }
}

kernels::PackedPanels PackedWeight::panels(std::int64_t first, std::int64_t count) const {
  const auto row = static_cast<std::size_t>(first * kPanelRows);
  kernels::PackedPanels panels = {
      .element = element_,
      .panels = static_cast<std::size_t>(count),
      .columns = static_cast<std::size_t>(padded_columns_),
      .group_columns = static_cast<std::size_t>(group_scales_.empty() ? padded_columns_ : format_.group_size)};
  panels.values = values_.get() + static_cast<std::size_t>(first) * panels.panel_bytes();
  if (!group_scales_.empty()) {
    panels.group_scales = group_scales_.data() + row * static_cast<std::size_t>(groups_);
    panels.row_totals = row_totals_.data() + row;
  } else if (!row_scales_.empty()) {
    panels.row_scales = row_scales_.data() + row;
    panels.row_sums = row_sums_.data() + row;
  }
  return panels;
}

}  // namespace diffulex_edge
