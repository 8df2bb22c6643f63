// How a weight is stored: one description that checkpoints, quantizers and backends share.
#pragma once

#include <cstdint>
#include <string>

namespace diffulex_edge {

// kI32 is only for the bias of a layer with static activations.
enum class ElementType { kF32, kF16, kBF16, kI8, kI4, kI32 };

// What shares one scale: nothing is scaled, a whole tensor, a row (output channel), or `group_size` neighbours along
// the input of a row.
enum class Granularity { kNone, kTensor, kChannel, kGroup };

// Which nibble of a byte holds the element with the even index.
enum class NibbleOrder { kLowFirst, kHighFirst };

// A matrix weight is [rows = out_features, columns = in_features], row-major. Quantized values are
// q = clamp(round(w / scale), min, max) and stand for q * scale; zero points other than 0 exist where `symmetric` is
// false. I8 is two's complement; I4 is stored as the nibble q + 8, each row in ceil(columns / 2) bytes.
struct WeightFormat {
  ElementType element = ElementType::kF32;
  bool symmetric = true;
  Granularity granularity = Granularity::kNone;
  std::int64_t group_size = 0;                 // with Granularity::kGroup: 32, 64, 128 or 256
  ElementType scale_type = ElementType::kF32;  // kF32 or kBF16
  NibbleOrder nibble_order = NibbleOrder::kLowFirst;

  bool is_quantized() const { return element == ElementType::kI8 || element == ElementType::kI4; }
  // Bytes of one row's values, and the number of scales of one row (0 where nothing is scaled).
  std::int64_t row_bytes(std::int64_t columns) const;
  std::int64_t scales_per_row(std::int64_t columns) const;
  std::int64_t scale_bytes() const;  // of one scale

  friend bool operator==(const WeightFormat&, const WeightFormat&) = default;
};

// "f32", "i8 per channel", "i4 groups of 32, bf16 scales"
std::string to_string(const WeightFormat& format);
std::string to_string(ElementType element);

WeightFormat float_format(ElementType element);
WeightFormat int8_per_channel();
WeightFormat int4_groups(std::int64_t group_size, ElementType scale_type);
WeightFormat int4_per_channel();

}  // namespace diffulex_edge
