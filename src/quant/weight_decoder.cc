#include "quant/weight_decoder.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "checkpoint/row_decoder.h"
#include "diffulex_edge/error.h"
#include "quant/integer_weight.h"
#include "quant/kernels/kernels.h"
#include "quant/weight_check.h"

namespace diffulex_edge {
namespace {

float scale_at(const WeightFormat& format, const std::byte* scales, std::int64_t index) {
  if (format.scale_type == ElementType::kBF16) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, scales + index * 2, sizeof(bits));
    return kernels::scalar::bf16_to_f32_one(bits);
  }
  float scale = 0.0F;
  std::memcpy(&scale, scales + index * 4, sizeof(scale));
  return scale;
}

// One row: consecutive runs of `run` columns share a scale.
void decode_integers(const WeightFormat& format, const std::byte* values, const std::byte* scales, std::int64_t columns,
                     float* target) {
  const std::int64_t run = format.granularity == Granularity::kGroup ? format.group_size : columns;
  for (std::int64_t begin = 0; begin < columns; begin += run) {
    const float scale = scale_at(format, scales, begin / run);
    const std::int64_t end = std::min(columns, begin + run);
    if (format.bits() == 8) {
      const auto* q = reinterpret_cast<const std::int8_t*>(values);
      for (std::int64_t i = begin; i < end; ++i) {
        target[i] = static_cast<float>(q[i]) * scale;
      }
    } else {
      for (std::int64_t i = begin; i < end; ++i) {
        target[i] = static_cast<float>(int4_at(values, i)) * scale;
      }
    }
  }
}

}  // namespace

void decode_rows(const WeightFormat& format, std::span<const std::byte> values, std::span<const std::byte> scales,
                 std::int64_t rows, std::int64_t columns, std::span<float> target) {
  const auto count = static_cast<std::size_t>(rows * columns);
  switch (format.element) {
    case ElementType::kF32:
      std::memcpy(target.data(), values.data(), count * sizeof(float));
      return;
    case ElementType::kF16:
      kernels::f16_to_f32(reinterpret_cast<const std::uint16_t*>(values.data()), target.data(), count);
      return;
    case ElementType::kBF16:
      kernels::bf16_to_f32(reinterpret_cast<const std::uint16_t*>(values.data()), target.data(), count);
      return;
    default:
      break;
  }
  if (!format.is_grid()) {
    throw Error(ErrorCode::kInternal, {}, to_string(format) + " has no integers with scales");
  }
  const std::int64_t value_bytes = format.row_bytes(columns);
  const std::int64_t scale_bytes = format.scales_per_row(columns) * format.scale_bytes();
  for (std::int64_t row = 0; row < rows; ++row) {
    decode_integers(format, values.data() + row * value_bytes, scales.data() + row * scale_bytes, columns,
                    target.data() + row * columns);
  }
}

void load_rows(const StoredWeight& source, std::int64_t row_begin, std::int64_t rows, std::span<float> target) {
  if (source.values->decoder != nullptr) {
    source.values->decoder->decode(row_begin, rows, target);
    source.check();
    check_values(source, row_begin, target.first(static_cast<std::size_t>(rows * source.columns)));
    return;
  }
  const auto value_bytes = static_cast<std::size_t>(source.format.row_bytes(source.columns));
  const auto begin = static_cast<std::size_t>(row_begin);
  const auto count = static_cast<std::size_t>(rows);
  std::span<const std::byte> values = source.values->bytes.subspan(begin * value_bytes, count * value_bytes);
  std::vector<std::byte> aligned;
  if (reinterpret_cast<std::uintptr_t>(values.data()) % alignof(float) != 0) {
    aligned.assign(values.begin(), values.end());
    values = aligned;
  }
  std::span<const std::byte> scales;
  if (source.scales != nullptr) {
    const auto scale_bytes =
        static_cast<std::size_t>(source.format.scales_per_row(source.columns) * source.format.scale_bytes());
    scales = source.scales->bytes.subspan(begin * scale_bytes, count * scale_bytes);
    check_scales(source, row_begin * source.format.scales_per_row(source.columns), scales);
  }
  decode_rows(source.format, values, scales, rows, source.columns, target);
  source.check();
  if (source.scales == nullptr) {
    check_values(source, row_begin, target.first(count * static_cast<std::size_t>(source.columns)));
  }
}

std::vector<float> load_scales(std::span<const std::byte> scales, ElementType type) {
  if (scales.empty()) {
    return {};
  }
  std::vector<float> result(scales.size() / (type == ElementType::kF32 ? 4 : 2));
  if (type == ElementType::kF32) {
    std::memcpy(result.data(), scales.data(), scales.size());
  } else {
    kernels::bf16_to_f32(reinterpret_cast<const std::uint16_t*>(scales.data()), result.data(), result.size());
  }
  return result;
}

std::vector<float> load_tensor(const Checkpoint& checkpoint, std::string_view name) {
  const StoredWeight source = find_stored_weight(checkpoint, name);
  std::vector<float> tensor(static_cast<std::size_t>(source.rows * source.columns));
  source.will_need(0, source.rows);  // a page fault would read far beyond a small tensor
  load_rows(source, 0, source.rows, tensor);
  source.release(0, source.rows);
  return tensor;
}

}  // namespace diffulex_edge
