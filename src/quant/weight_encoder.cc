#include "quant/weight_encoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "diffulex_edge/error.h"
#include "quant/codebook.h"
#include "quant/kernels/kernels.h"
#include "quant/weight_check.h"

namespace diffulex_edge {
namespace {

class RowEncoder {
 public:
  RowEncoder(const StoredWeight& source, const WeightFormat& format, const EncodeOptions& options,
             EncodeScratch& scratch)
      : source_(source),
        format_(format),
        options_(options),
        scratch_(scratch),
        columns_(static_cast<std::size_t>(source.columns)) {
    scratch_.row.resize(columns_);
  }

  void encode(std::int64_t row, std::byte* values, std::byte* scales) {
    load(row);
    const float* weights = scratch_.row.data();
    const float largest = check_values(source_, row, scratch_.row);
    if (format_.is_grid()) {
      round_row(scratch_.row, {}, format_, options_.method, scratch_.search, values, scales);
      return;
    }
    if (format_.has_codebook()) {
      assign_palette(scratch_.row, options_.codebooks->of_row(row),
                     {values, static_cast<std::size_t>(format_.row_bytes(source_.columns))});
      return;
    }
    switch (format_.element) {
      case ElementType::kF32:
        std::memcpy(values, weights, columns_ * sizeof(float));
        return;
      case ElementType::kF16:
        encode_f16(row, largest, values);
        return;
      case ElementType::kBF16:
        kernels::f32_to_bf16(weights, reinterpret_cast<std::uint16_t*>(values), columns_);
        return;
      default:
        break;
    }
    throw Error(ErrorCode::kInternal, source_.values->where(), "no weight is stored as " + to_string(format_.element));
  }

 private:
  void load(std::int64_t row) {
    const std::size_t bytes = columns_ * byte_size(source_.values->dtype);
    const std::byte* data = source_.values->bytes.data() + static_cast<std::size_t>(row) * bytes;
    if (source_.format.element == ElementType::kF32) {
      std::memcpy(scratch_.row.data(), data, bytes);
      return;
    }
    // A safetensors header may leave its data unaligned.
    if (reinterpret_cast<std::uintptr_t>(data) % alignof(std::uint16_t) != 0) {
      scratch_.aligned.assign(data, data + bytes);
      data = scratch_.aligned.data();
    }
    const auto* halves = reinterpret_cast<const std::uint16_t*>(data);
    if (source_.format.element == ElementType::kF16) {
      kernels::f16_to_f32(halves, scratch_.row.data(), columns_);
    } else {
      kernels::bf16_to_f32(halves, scratch_.row.data(), columns_);
    }
  }

  void encode_f16(std::int64_t row, float largest, std::byte* values) {
    auto* target = reinterpret_cast<std::uint16_t*>(values);
    if (largest <= kernels::kMaxFinite16) {
      kernels::f32_to_f16(scratch_.row.data(), target, columns_);
    } else if (options_.saturate_fp16) {
      kernels::f32_to_f16_saturate(scratch_.row.data(), target, columns_);
    } else {
      fail_at_element(
          source_, row, scratch_.row, [](float value) { return std::fabs(value) > kernels::kMaxFinite16; },
          "does not fit in FP16 (65504)", "exclude the layer, or saturate with --saturate-fp16");
    }
  }

  const StoredWeight& source_;
  const WeightFormat& format_;
  EncodeOptions options_;
  EncodeScratch& scratch_;
  std::size_t columns_;
};

void copy_quantized(const StoredWeight& source, std::int64_t row_begin, std::int64_t rows, std::span<std::byte> values,
                    std::span<std::byte> scales) {
  const auto part = [&](std::span<const std::byte> whole, std::span<std::byte> target) {
    const std::size_t row_bytes = target.size() / static_cast<std::size_t>(rows);
    const auto range = whole.subspan(static_cast<std::size_t>(row_begin) * row_bytes, target.size());
    std::ranges::copy(range, target.begin());
  };
  part(source.values->bytes, values);
  part(source.scales->bytes, scales);
  source.check();
  check_scales(source, row_begin * source.format.scales_per_row(source.columns), scales);
}

}  // namespace

void encode_rows(const StoredWeight& source, const WeightFormat& format, const EncodeOptions& options,
                 std::int64_t row_begin, std::int64_t rows, EncodeScratch& scratch, std::span<std::byte> values,
                 std::span<std::byte> scales) {
  if (source.format.is_quantized()) {
    if (format != source.format) {
      throw Error(ErrorCode::kInternal, source.values->where(), "a quantized weight can't change its format");
    }
    copy_quantized(source, row_begin, rows, values, scales);
    return;
  }
  RowEncoder encoder(source, format, options, scratch);
  const std::int64_t value_bytes = format.row_bytes(source.columns);
  const std::int64_t scale_bytes = format.scales_per_row(source.columns) * format.scale_bytes();
  for (std::int64_t i = 0; i < rows; ++i) {
    encoder.encode(row_begin + i, values.data() + i * value_bytes, scales.data() + i * scale_bytes);
  }
  source.check();
}

}  // namespace diffulex_edge
