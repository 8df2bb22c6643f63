// The tables of values of a stored weight: fitted to it in one pass, used in the next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "checkpoint/stored_weight.h"
#include "diffulex_edge/progress.h"
#include "diffulex_edge/weight_format.h"
#include "quant/palette.h"

namespace diffulex_edge {

struct Codebooks {
  std::int64_t rows_per_table = 0;
  std::vector<Palette> tables;

  const Palette& of_row(std::int64_t row) const { return tables[static_cast<std::size_t>(row / rows_per_table)]; }
};

// A weight that is to have tables.
struct CodebookJob {
  StoredWeight source;  // in floating point
  WeightFormat format;  // has_codebook(); its groups divide the rows
  // Empty, or a factor for each column's squared errors.
  std::span<const float> importance;
};

// The tables of each weight, in the order of `jobs`; one work item for each table. Memory: that of PaletteHistogram and
// a tile of 1 MiB for each thread. Errors: kBadFile as stream_weights, kInvalidArgument as PaletteHistogram,
// kUnsupported for a value that a table in float16 can't hold, kCancelled.
std::vector<Codebooks> fit_codebooks(std::span<const CodebookJob> jobs, const RunControl& control);

// What rows [row_begin, row_begin + rows) stand for, from their indices.
void decode_indices(const Codebooks& codebooks, std::span<const std::byte> indices, std::int64_t row_begin,
                    std::int64_t rows, std::int64_t columns, std::span<float> target);

}  // namespace diffulex_edge
