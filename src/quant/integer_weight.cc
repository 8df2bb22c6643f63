#include "quant/integer_weight.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "diffulex_edge/error.h"
#include "quant/kernels/kernels.h"

namespace diffulex_edge {

IntegerWeight::IntegerWeight(std::int64_t row_count, std::int64_t column_count, const WeightFormat& format)
    : rows(row_count),
      columns(column_count),
      run(format.granularity == Granularity::kGroup ? format.group_size : column_count),
      values(static_cast<std::size_t>(row_count * column_count)),
      scales(static_cast<std::size_t>(row_count * (column_count / run))) {}

void pack(const IntegerWeight& weight, const WeightFormat& format, RoundedWeight& target) {
  const auto columns = static_cast<std::size_t>(weight.columns);
  const auto row_bytes = static_cast<std::size_t>(format.row_bytes(weight.columns));
  target.values.assign(static_cast<std::size_t>(weight.rows) * row_bytes, std::byte{0});
  if (format.bits() == 8) {
    std::memcpy(target.values.data(), weight.values.data(), weight.values.size());
  } else {
    for (std::size_t row = 0; row < static_cast<std::size_t>(weight.rows); ++row) {
      const std::int8_t* q = weight.values.data() + row * columns;
      std::byte* packed = target.values.data() + row * row_bytes;
      for (std::size_t i = 0; i < columns; i += 2) {
        const auto low = static_cast<unsigned>(q[i] + 8);
        const auto high = i + 1 < columns ? static_cast<unsigned>(q[i + 1] + 8) : 8U;
        packed[i / 2] = static_cast<std::byte>(low | (high << 4U));
      }
    }
  }
  target.scales.resize(weight.scales.size() * static_cast<std::size_t>(format.scale_bytes()));
  if (format.scale_type == ElementType::kBF16) {
    std::vector<std::uint16_t> narrow(weight.scales.size());
    kernels::f32_to_bf16(weight.scales.data(), narrow.data(), narrow.size());
    std::memcpy(target.scales.data(), narrow.data(), target.scales.size());
  } else {
    std::memcpy(target.scales.data(), weight.scales.data(), target.scales.size());
  }
}

IntegerWeight unpack(const RoundedWeight& weight, std::int64_t rows, std::int64_t columns, const WeightFormat& format) {
  IntegerWeight result(rows, columns, format);
  if (format.bits() == 8) {
    std::memcpy(result.values.data(), weight.values.data(), result.values.size());
  } else {
    const std::int64_t row_bytes = format.row_bytes(columns);
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::byte* packed = weight.values.data() + row * row_bytes;
      std::int8_t* q = result.row(row);
      for (std::int64_t i = 0; i < columns; ++i) {
        q[i] = static_cast<std::int8_t>(int4_at(packed, i));
      }
    }
  }
  if (format.scale_type == ElementType::kBF16) {
    std::vector<std::uint16_t> narrow(result.scales.size());
    std::memcpy(narrow.data(), weight.scales.data(), weight.scales.size());
    kernels::bf16_to_f32(narrow.data(), result.scales.data(), narrow.size());
  } else {
    std::memcpy(result.scales.data(), weight.scales.data(), weight.scales.size());
  }
  return result;
}

void check_layer(std::span<const float> weight, std::int64_t rows, std::int64_t columns,
                 const InputStatistics* statistics) {
  const auto width = static_cast<std::size_t>(columns);
  if (rows <= 0 || columns <= 0 || weight.size() != static_cast<std::size_t>(rows) * width) {
    throw Error(ErrorCode::kInvalidArgument, "weight",
                "has " + std::to_string(weight.size()) + " elements, not " + std::to_string(rows) + " x " +
                    std::to_string(columns));
  }
  if (statistics != nullptr && (statistics->columns != columns || statistics->hessian.size() != width * width)) {
    throw Error(
        ErrorCode::kInvalidArgument, "input statistics",
        "are of " + std::to_string(statistics->columns) + " columns, the weight has " + std::to_string(columns));
  }
}

void check_finite(std::span<const float> weight, std::int64_t columns) {
  if (std::isfinite(kernels::f32_abs_max(weight.data(), weight.size()))) {
    return;
  }
  const auto wrong = std::ranges::find_if(weight, [](float value) { return !std::isfinite(value); });
  const std::int64_t index = wrong - weight.begin();
  throw Error(ErrorCode::kInvalidArgument, "weight",
              "element [" + std::to_string(index / columns) + ", " + std::to_string(index % columns) +
                  "] = " + std::to_string(*wrong) + " is not finite");
}

}  // namespace diffulex_edge
