// Streams weights from their mapped source through the kernels to a sink, tile by tile on all cores. Memory: one tile
// for each thread, whatever the size of the model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "checkpoint/stored_weight.h"
#include "diffulex_edge/progress.h"
#include "diffulex_edge/quantization.h"
#include "diffulex_edge/weight_format.h"
#include "quant/codebook.h"

namespace diffulex_edge {

// Some whole rows of a weight in its target format. The spans are valid during the sink's call and may be changed by
// it.
struct EncodedTile {
  std::int64_t row_begin = 0;
  std::int64_t rows = 0;
  std::span<std::byte> values;           // rows * format.row_bytes(columns)
  std::span<std::byte> scales;           // rows * format.scales_per_row(columns) elements of format.scale_type
  const Codebooks* codebooks = nullptr;  // the weight's, where its format has them
};

struct StreamJob {
  StoredWeight source;
  WeightFormat format;
  RoundingMethod method = RoundingMethod::RTN;  // of a quantized format: RTN, MSE or HQQ
  bool saturate_fp16 = false;
  std::span<const float> importance;  // of a format with tables: CodebookJob's
  // Called once for each tile, from several threads at once, in no fixed order. Which rows make a tile depends on the
  // shape alone.
  std::function<void(const EncodedTile&)> sink;
};

// Tables are fitted first, those of all jobs. Errors: kBadFile for a NaN, an infinity, a weight beyond binary16
// (without saturate_fp16) or a broken scale in a quantized source, naming tensor, element and value; kCancelled;
// whatever a sink throws.
void stream_weights(std::span<const StreamJob> jobs, const RunControl& control);

}  // namespace diffulex_edge
