// Which block type of ggml a weight gets, and its blocks from the integers and scales of a stored format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "checkpoint/gguf_blocks.h"
#include "checkpoint/gguf_tensors.h"
#include "checkpoint/stored_weight.h"
#include "diffulex_edge/quantization.h"
#include "diffulex_edge/weight_format.h"

namespace diffulex_edge {

struct GgufEncoding {
  const GgufBlockType* type = nullptr;
  WeightFormat encoded;                // what the weight is encoded as, before it is packed into blocks
  const GgufWeight* copied = nullptr;  // whose blocks are taken as they are

  std::int64_t row_bytes(std::int64_t columns) const { return columns / type->elements * type->bytes; }
};

// Throws Error{kUnsupported} for a format that has no block type, and for rows that blocks do not divide.
GgufEncoding gguf_encoding(const LayerPlan& layer, const StoredWeight& source);

// Rows that encode_rows encoded, in blocks. Throws Error{kUnsupported} naming `layer` for a scale beyond FP16.
std::vector<std::byte> pack_gguf_rows(const LayerPlan& layer, const GgufEncoding& encoding, std::int64_t rows,
                                      std::span<const std::byte> values, std::span<const std::byte> scales);

// The bits of each scale in FP16. `type` is theirs: F32, BF16 or F16.
std::vector<std::uint16_t> gguf_scales(const LayerPlan& layer, ElementType type, std::span<const std::byte> scales);

}  // namespace diffulex_edge
