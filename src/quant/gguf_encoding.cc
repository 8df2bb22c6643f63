#include "quant/gguf_encoding.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "diffulex_edge/error.h"
#include "quant/kernels/kernels.h"
#include "quant/weight_decoder.h"

namespace diffulex_edge {
namespace {

// ggml's numbers.
constexpr std::uint32_t kTypeF32 = 0;
constexpr std::uint32_t kTypeF16 = 1;
constexpr std::uint32_t kTypeQ4 = 2;
constexpr std::uint32_t kTypeQ8 = 8;
constexpr std::uint32_t kTypeBF16 = 30;
constexpr std::int64_t kBlockSize = 32;
constexpr std::int64_t kScaleBytes = 2;

GgufEncoding floats(std::uint32_t type, ElementType element) {
  return {.type = find_gguf_type(type), .encoded = float_format(element)};
}

// As the checkpoint has them.
GgufEncoding unconverted(const StoredWeight& source, const GgufWeight* blocks) {
  if (blocks != nullptr) {
    return {.type = &blocks->type(), .copied = blocks};
  }
  switch (source.format.element) {
    case ElementType::kF16:
      return floats(kTypeF16, ElementType::kF16);
    case ElementType::kBF16:
      return floats(kTypeBF16, ElementType::kBF16);
    default:
      return floats(kTypeF32, ElementType::kF32);
  }
}

WeightFormat blocks_of_int8() {
  return {.element = ElementType::kI8,
          .granularity = Granularity::kGroup,
          .group_size = kBlockSize,
          .scale_type = ElementType::kF16};
}

GgufEncoding integers(const LayerPlan& layer, const StoredWeight& source, const GgufWeight* blocks) {
  if (layer.columns % kBlockSize != 0) {
    throw Error(ErrorCode::kUnsupported, layer.layer,
                "has rows of " + std::to_string(layer.columns) + " weights, which GGUF's blocks of " +
                    std::to_string(kBlockSize) + " do not divide",
                "exclude it, or use FP16");
  }
  const bool is_int8 = layer.dtype == QuantizationDtype::INT8;
  GgufEncoding encoding{.type = find_gguf_type(is_int8 ? kTypeQ8 : kTypeQ4), .encoded = layer.format};
  const bool is_grid = is_int8 || layer.format.group_size == kBlockSize;
  if (is_grid && blocks != nullptr && &blocks->type() == encoding.type) {
    encoding.copied = blocks;
  }
  if (source.format.is_quantized()) {
    encoding.encoded = source.format;
  } else if (is_int8) {
    encoding.encoded = blocks_of_int8();
  }
  return encoding;
}

// Element i of 32 is the low nibble of byte i where i < 16, else the high one of byte i - 16.
void pack_nibbles(const std::byte* packed, std::byte* block) {
  const auto nibble = [&](std::int64_t i) {
    const auto byte = std::to_integer<unsigned>(packed[i / 2]);
    return i % 2 == 0 ? byte & 0xFU : byte >> 4U;
  };
  for (std::int64_t i = 0; i < kBlockSize / 2; ++i) {
    block[i] = static_cast<std::byte>(nibble(i) | (nibble(i + kBlockSize / 2) << 4U));
  }
}

}  // namespace

GgufEncoding gguf_encoding(const LayerPlan& layer, const StoredWeight& source) {
  const auto* blocks = dynamic_cast<const GgufWeight*>(source.values->decoder);
  if (layer.role == LayerRole::kNorm || layer.role == LayerRole::kBias) {
    return floats(kTypeF32, ElementType::kF32);
  }
  switch (layer.dtype) {
    case QuantizationDtype::FP32:
      return layer.layer.ends_with(".router") ? floats(kTypeF32, ElementType::kF32) : unconverted(source, blocks);
    case QuantizationDtype::FP16:
      return floats(kTypeF16, ElementType::kF16);
    case QuantizationDtype::INT8:
    case QuantizationDtype::INT4:
      return integers(layer, source, blocks);
    default:
      throw Error(ErrorCode::kUnsupported, layer.layer,
                  "GGUF has no block type for " + std::string(format_row(layer.dtype).title),
                  "use FP32, FP16, INT8 or INT4");
  }
}

std::vector<std::uint16_t> gguf_scales(const LayerPlan& layer, ElementType type, std::span<const std::byte> scales) {
  std::vector<std::uint16_t> halves(scales.size() / (type == ElementType::kF32 ? 4 : 2));
  if (type == ElementType::kF16) {
    std::memcpy(halves.data(), scales.data(), scales.size());
    return halves;
  }
  const std::vector<float> wide = load_scales(scales, type);
  const auto beyond = std::ranges::find_if(wide, [](float scale) { return scale > kernels::kMaxFinite16; });
  if (beyond != wide.end()) {
    throw Error(ErrorCode::kUnsupported, layer.tensor,
                "has the scale " + std::to_string(*beyond) + ", which GGUF's FP16 does not hold", "exclude the layer");
  }
  kernels::f32_to_f16(wide.data(), halves.data(), wide.size());
  return halves;
}

std::vector<std::byte> pack_gguf_rows(const LayerPlan& layer, const GgufEncoding& encoding, std::int64_t rows,
                                      std::span<const std::byte> values, std::span<const std::byte> scales) {
  const WeightFormat& format = encoding.encoded;
  if (!format.is_quantized()) {
    return {values.begin(), values.end()};
  }
  const std::vector<std::uint16_t> halves = gguf_scales(layer, format.scale_type, scales);
  const std::int64_t scales_per_row = format.scales_per_row(layer.columns);
  const std::int64_t blocks_per_row = layer.columns / kBlockSize;
  const std::int64_t value_bytes = kBlockSize * format.bits() / 8;
  std::vector<std::byte> target(static_cast<std::size_t>(rows * encoding.row_bytes(layer.columns)));
  std::byte* block = target.data();
  const std::byte* source = values.data();
  for (std::int64_t i = 0; i < rows * blocks_per_row; ++i) {
    const std::int64_t scale =
        i / blocks_per_row * scales_per_row + i % blocks_per_row * scales_per_row / blocks_per_row;
    std::memcpy(block, &halves[static_cast<std::size_t>(scale)], kScaleBytes);
    if (format.bits() == 8) {
      std::memcpy(block + kScaleBytes, source, static_cast<std::size_t>(value_bytes));
    } else {
      pack_nibbles(source, block + kScaleBytes);
    }
    source += value_bytes;
    block += encoding.type->bytes;
  }
  return target;
}

}  // namespace diffulex_edge
