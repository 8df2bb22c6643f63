// Turns rows of a stored weight into another format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "checkpoint/stored_weight.h"
#include "diffulex_edge/quantization.h"
#include "diffulex_edge/weight_format.h"
#include "quant/scale_search.h"

namespace diffulex_edge {

// Buffers that one thread reuses.
struct EncodeScratch {
  std::vector<float> rows;
  std::vector<std::byte> aligned;
  std::vector<float> scales;
  ScaleSearch search;
};

struct Codebooks;

struct EncodeOptions {
  RoundingMethod method = RoundingMethod::RTN;  // of quantized formats: RTN, MSE or HQQ
  bool saturate_fp16 = false;
  const Codebooks* codebooks = nullptr;  // of a format that has them: those of the weight
};

// Encodes rows [row_begin, row_begin + rows). `values` and `scales` have exactly the bytes that `format` asks for and
// are aligned to 4 bytes. A quantized source can only keep its format. Errors as in stream_weights.
void encode_rows(const StoredWeight& source, const WeightFormat& format, const EncodeOptions& options,
                 std::int64_t row_begin, std::int64_t rows, EncodeScratch& scratch, std::span<std::byte> values,
                 std::span<std::byte> scales);

}  // namespace diffulex_edge
