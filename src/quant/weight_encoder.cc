#include "quant/weight_encoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "checkpoint/row_decoder.h"
#include "diffulex_edge/error.h"
#include "quant/codebook.h"
#include "quant/kernels/kernels.h"
#include "quant/weight_check.h"
#include "quant/weight_decoder.h"

namespace diffulex_edge {
namespace {

// Rows that are decoded at once where another program's layout has several of them in one word or page.
constexpr std::int64_t kDecodedElements = std::int64_t{1} << 18U;

class RowEncoder {
 public:
  RowEncoder(const StoredWeight& source, const WeightFormat& format, const EncodeOptions& options,
             EncodeScratch& scratch)
      : source_(source),
        format_(format),
        options_(options),
        scratch_(scratch),
        columns_(static_cast<std::size_t>(source.columns)) {}

  void encode(std::int64_t row_begin, std::int64_t rows, std::span<std::byte> values, std::span<std::byte> scales) {
    const std::int64_t value_bytes = format_.row_bytes(source_.columns);
    const std::int64_t scale_bytes = format_.scales_per_row(source_.columns) * format_.scale_bytes();
    const std::int64_t most =
        source_.values->decoder == nullptr ? 1 : std::clamp<std::int64_t>(kDecodedElements / source_.columns, 1, rows);
    scratch_.rows.resize(columns_ * static_cast<std::size_t>(most));
    for (std::int64_t begin = 0; begin < rows; begin += most) {
      const std::int64_t count = std::min(most, rows - begin);
      load(row_begin + begin, count);
      for (std::int64_t i = 0; i < count; ++i) {
        encode_row(row_begin + begin + i,
                   std::span(scratch_.rows).subspan(columns_ * static_cast<std::size_t>(i), columns_),
                   values.data() + (begin + i) * value_bytes, scales.data() + (begin + i) * scale_bytes);
      }
    }
  }

 private:
  void encode_row(std::int64_t row, std::span<const float> weights, std::byte* values, std::byte* scales) {
    const float largest = check_values(source_, row, weights);
    if (format_.is_grid()) {
      round_row(weights, {}, format_, options_.method, scratch_.search, values, scales);
      keep_integers(row, weights, values, scales);
      return;
    }
    if (format_.has_codebook()) {
      assign_palette(weights, options_.codebooks->of_row(row),
                     {values, static_cast<std::size_t>(format_.row_bytes(source_.columns))});
      return;
    }
    switch (format_.element) {
      case ElementType::kF32:
        std::memcpy(values, weights.data(), columns_ * sizeof(float));
        return;
      case ElementType::kF16:
        encode_f16(row, weights, largest, values);
        return;
      case ElementType::kBF16:
        kernels::f32_to_bf16(weights.data(), reinterpret_cast<std::uint16_t*>(values), columns_);
        return;
      default:
        break;
    }
    throw Error(ErrorCode::kInternal, source_.values->where(), "no weight is stored as " + to_string(format_.element));
  }

  // Another program's integers of 4 bits stay as they are in the groups that have the same weights: their scale gives
  // them back, unless it stands for an integer that is not ours (8, where the other program's scale is negative). There
  // the scale with the lesser error is taken.
  void keep_integers(std::int64_t row, std::span<const float> weights, std::byte* values, std::byte* scales) {
    const RowDecoder* decoder = source_.values->decoder;
    const bool is_grouped = format_.bits() == 4 && format_.granularity == Granularity::kGroup;
    if (decoder == nullptr || !is_grouped) {
      return;
    }
    scratch_.scales.resize(static_cast<std::size_t>(format_.scales_per_row(source_.columns)));
    if (!decoder->read_scales(row, format_.group_size, scratch_.scales)) {
      return;
    }
    const IntegerGrid grid = integer_grid(format_);
    const auto size = static_cast<std::size_t>(format_.group_size);
    for (std::size_t i = 0; i < scratch_.scales.size(); ++i) {
      const std::span<const float> group = weights.subspan(i * size, size);
      const float stored = storable_scale(scratch_.scales[i], format_.scale_type);
      std::byte* group_scale = scales + static_cast<std::ptrdiff_t>(i) * format_.scale_bytes();
      if (scratch_.scales[i] > 0.0F &&
          (!clips(group, stored, grid) ||
           squared_error(group, {}, stored, grid) < squared_error(group, {}, load_scale(group_scale), grid))) {
        kernels::f32_to_i4_rtn(group.data(), reinterpret_cast<std::uint8_t*>(values + i * size / 2), size, stored);
        store_scale(stored, format_.scale_type, group_scale);
      }
    }
  }

  float load_scale(const std::byte* scale) const {
    return load_scales({scale, static_cast<std::size_t>(format_.scale_bytes())}, format_.scale_type).front();
  }

  static bool clips(std::span<const float> group, float scale, const IntegerGrid& grid) {
    const kernels::MinMax range = kernels::f32_min_max(group.data(), group.size());
    return range.max > (grid.high + 0.5F) * scale || range.min < (grid.low - 0.5F) * scale;
  }

  // One row; or several of a weight with a decoder.
  void load(std::int64_t row, std::int64_t count) {
    if (source_.values->decoder != nullptr) {
      source_.values->decoder->decode(row, count, scratch_.rows);
      return;
    }
    const std::size_t bytes = columns_ * byte_size(source_.values->dtype);
    const std::byte* data = source_.values->bytes.data() + static_cast<std::size_t>(row) * bytes;
    if (source_.format.element == ElementType::kF32) {
      std::memcpy(scratch_.rows.data(), data, bytes);
      return;
    }
    // A safetensors header may leave its data unaligned.
    if (reinterpret_cast<std::uintptr_t>(data) % alignof(std::uint16_t) != 0) {
      scratch_.aligned.assign(data, data + bytes);
      data = scratch_.aligned.data();
    }
    const auto* halves = reinterpret_cast<const std::uint16_t*>(data);
    if (source_.format.element == ElementType::kF16) {
      kernels::f16_to_f32(halves, scratch_.rows.data(), columns_);
    } else {
      kernels::bf16_to_f32(halves, scratch_.rows.data(), columns_);
    }
  }

  void encode_f16(std::int64_t row, std::span<const float> weights, float largest, std::byte* values) {
    auto* target = reinterpret_cast<std::uint16_t*>(values);
    if (largest <= kernels::kMaxFinite16) {
      kernels::f32_to_f16(weights.data(), target, columns_);
    } else if (options_.saturate_fp16) {
      kernels::f32_to_f16_saturate(weights.data(), target, columns_);
    } else {
      fail_at_element(
          source_, row, weights, [](float value) { return std::fabs(value) > kernels::kMaxFinite16; },
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
  RowEncoder(source, format, options, scratch).encode(row_begin, rows, values, scales);
  source.check();
}

}  // namespace diffulex_edge
