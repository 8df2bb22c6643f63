#include "runtime/packed_weight.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

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

void PackedWeight::lay_out() {
  std::size_t end = 0;
  const auto place = [&end](std::size_t bytes) {
    const auto begin = static_cast<std::size_t>(round_up(static_cast<std::int64_t>(end), kCacheLine));
    end = begin + bytes;
    return begin;
  };
  if (is_float32()) {
    value_bytes_ = static_cast<std::size_t>(rows_ * columns_) * sizeof(float);
    place(value_bytes_);
    sections_.end = end;
    return;
  }
  element_ = packed_element(format_);
  if (!can_hold(columns_, format_)) {
    throw Error(ErrorCode::kUnsupported, "int8 layer",
                std::to_string(columns_) + " inputs: sums of 32 bits hold " + std::to_string(kMostInt8Columns));
  }
  panels_ = round_up(rows_, kPanelRows) / kPanelRows;
  const auto width = static_cast<std::int64_t>(kernels::step_columns(element_));
  padded_columns_ = round_up(columns_, width);
  value_bytes_ = static_cast<std::size_t>(panels_ * padded_columns_ / width) * kernels::step_bytes(element_);
  place(value_bytes_);
  const auto padded_rows = static_cast<std::size_t>(panels_ * kPanelRows);
  if (has_groups()) {
    groups_ = columns_ / format_.group_size;
    sections_.group_scales = place(padded_rows * static_cast<std::size_t>(groups_) * sizeof(std::uint16_t));
    sections_.row_totals = place(padded_rows * sizeof(float));
  } else if (format_.is_quantized()) {
    sections_.row_scales = place(padded_rows * sizeof(float));
    sections_.row_sums = place(padded_rows * sizeof(std::int32_t));
  }
  sections_.end = end;
}

PackedWeight::PackedWeight(std::int64_t rows, std::int64_t columns, const WeightFormat& format)
    : rows_(rows), columns_(columns), format_(format) {
  lay_out();
  const std::size_t lines = sections_.end / kCacheLine + 1;
  own_ = static_cast<std::uint8_t*>(std::aligned_alloc(kCacheLine, lines * kCacheLine));
  if (own_ == nullptr) {
    throw Error(ErrorCode::kOutOfMemory, "packed weight", "needs " + std::to_string(sections_.end) + " bytes");
  }
  owner_ = std::shared_ptr<const void>(own_, [](const void* memory) { std::free(const_cast<void*>(memory)); });
  memory_ = own_;
  std::memset(own_, zero_byte(element_), value_bytes_);
  std::memset(own_ + value_bytes_, 0, sections_.end - value_bytes_);
}

PackedWeight::PackedWeight(std::int64_t rows, std::int64_t columns, const WeightFormat& format,
                           std::span<const std::byte> image, std::shared_ptr<const void> owner)
    : rows_(rows), columns_(columns), format_(format), owner_(std::move(owner)) {
  lay_out();
  if (image.size() != sections_.end || reinterpret_cast<std::uintptr_t>(image.data()) % kCacheLine != 0) {
    throw Error(ErrorCode::kInternal, "packed weight",
                "an image of " + std::to_string(image.size()) + " bytes is not of " + std::to_string(sections_.end));
  }
  memory_ = reinterpret_cast<const std::uint8_t*>(image.data());
}

std::int64_t PackedWeight::bytes() const {
  const auto padded_rows = static_cast<std::size_t>(panels_ * kPanelRows);
  std::size_t scales = 0;
  if (has_groups()) {
    scales = padded_rows * (static_cast<std::size_t>(groups_) * sizeof(std::uint16_t) + sizeof(float));
  } else if (format_.is_quantized()) {
    scales = padded_rows * (sizeof(float) + sizeof(std::int32_t));
  }
  return static_cast<std::int64_t>(value_bytes_ + scales);
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
        std::memcpy(own_ + row * value_bytes, values, static_cast<std::size_t>(value_bytes));
    }
    if (format_.is_quantized()) {
      store_scales(row, values, tile.scales.data() + i * scale_bytes);
    }
  }
}

std::size_t PackedWeight::first_step(std::int64_t row) const {
  const auto width = static_cast<std::int64_t>(kernels::step_columns(element_));
  const auto bytes = static_cast<std::int64_t>(kernels::step_bytes(element_));
  return static_cast<std::size_t>(row / kPanelRows * (padded_columns_ / width * bytes) +
                                  row % kPanelRows * (bytes / kPanelRows));
}

void PackedWeight::store_halves(std::int64_t row, const std::byte* values) {
  std::uint8_t* target = own_ + first_step(row);
  for (std::int64_t column = 0; column < columns_; ++column, target += kHalfStep) {
    std::memcpy(target, values + 2 * column, sizeof(std::uint16_t));
  }
}

void PackedWeight::store_int8(std::int64_t row, const std::byte* values) {
  std::uint8_t* target = own_ + first_step(row);
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
  std::uint8_t* target = own_ + first_step(row);
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
  return has_groups() ? kernels::scalar::bf16_to_f32_one(group_scales()[scale_index(row, group)])
                      : row_scales()[static_cast<std::size_t>(row)];
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
  if (!has_groups()) {
    std::memcpy(stored_at<float>(sections_.row_scales) + row, scales, sizeof(float));
    stored_at<std::int32_t>(sections_.row_sums)[row] = sum_of(values, 0, columns_);
    return;
  }
  double total = 0.0;
  for (std::int64_t group = 0; group < groups_; ++group) {
    std::memcpy(stored_at<std::uint16_t>(sections_.group_scales) + scale_index(row, group), scales + group * 2,
                sizeof(std::uint16_t));
    const std::int32_t sum = sum_of(values, group * format_.group_size, format_.group_size);
    total += static_cast<double>(sum) * static_cast<double>(scale(row, group));
  }
  stored_at<float>(sections_.row_totals)[row] = static_cast<float>(total);
}

void PackedWeight::decode_row(std::int64_t row, std::span<float> target) const {
  if (is_float32()) {
    std::copy_n(floats() + row * columns_, columns_, target.begin());
    return;
  }
  const std::uint8_t* steps = memory_ + first_step(row);
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
      .group_columns = static_cast<std::size_t>(has_groups() ? format_.group_size : padded_columns_)};
  panels.values = memory_ + static_cast<std::size_t>(first) * panels.panel_bytes();
  if (has_groups()) {
    panels.group_scales = group_scales() + row * static_cast<std::size_t>(groups_);
    panels.row_totals = at<float>(sections_.row_totals) + row;
  } else if (format_.is_quantized()) {
    panels.row_scales = row_scales() + row;
    panels.row_sums = at<std::int32_t>(sections_.row_sums) + row;
  }
  return panels;
}

}  // namespace diffulex_edge
