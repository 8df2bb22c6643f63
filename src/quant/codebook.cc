#include "quant/codebook.h"

#include <algorithm>

#include "core/parallel.h"
#include "diffulex_edge/error.h"
#include "quant/weight_encoder.h"

namespace diffulex_edge {
namespace {

constexpr std::int64_t kTileElements = std::int64_t{1} << 18U;

// One table: of which weight, and for which rows.
struct Part {
  std::size_t job = 0;
  std::int64_t row_begin = 0;
  std::int64_t rows = 0;
  Palette* table = nullptr;
};

Palette fit_part(const CodebookJob& job, const Part& part, const RunControl& control) {
  const std::int64_t columns = job.source.columns;
  const std::int64_t tile = std::clamp<std::int64_t>(kTileElements / columns, 1, part.rows);
  EncodeScratch scratch;
  std::vector<float> values(static_cast<std::size_t>(tile * columns));
  PaletteHistogram histogram(job.importance);
  for (std::int64_t begin = part.row_begin; begin < part.row_begin + part.rows; begin += tile) {
    const std::int64_t count = std::min(tile, part.row_begin + part.rows - begin);
    const auto some = std::span(values).first(static_cast<std::size_t>(count * columns));
    encode_rows(job.source, float_format(ElementType::kF32), {}, begin, count, scratch, std::as_writable_bytes(some),
                {});
    histogram.add(some);
    job.source.release(begin, count);
    if (control.stop.stop_requested()) {
      throw Error(ErrorCode::kCancelled, {}, "stopped");
    }
  }
  try {
    return histogram.fit(job.format.bits(), job.format.scale_type);
  } catch (const Error&) {
    throw Error(ErrorCode::kUnsupported, job.source.values->where(), "has a palette with values beyond FP16 (65504)",
                "use --activation-dtype fp32");
  }
}

}  // namespace

std::vector<Codebooks> fit_codebooks(std::span<const CodebookJob> jobs, const RunControl& control) {
  std::vector<Codebooks> result(jobs.size());
  std::vector<Part> parts;
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    const std::int64_t tables = jobs[i].format.tables(jobs[i].source.rows);
    Codebooks& codebooks = result[i];
    codebooks.rows_per_table = jobs[i].source.rows / tables;
    codebooks.tables.resize(static_cast<std::size_t>(tables));
    for (std::int64_t table = 0; table < tables; ++table) {
      parts.push_back({.job = i,
                       .row_begin = table * codebooks.rows_per_table,
                       .rows = codebooks.rows_per_table,
                       .table = &codebooks.tables[static_cast<std::size_t>(table)]});
    }
  }
  parallel_for(parts.size(), control, [&](std::size_t item, std::size_t) {
    const Part& part = parts[item];
    *part.table = fit_part(jobs[part.job], part, control);
  });
  return result;
}

void decode_indices(const Codebooks& codebooks, std::span<const std::byte> indices, std::int64_t row_begin,
                    std::int64_t rows, std::int64_t columns, std::span<float> target) {
  const std::size_t row_bytes = indices.size() / static_cast<std::size_t>(rows);
  const auto width = static_cast<std::size_t>(columns);
  for (std::int64_t i = 0; i < rows; ++i) {
    const auto row = static_cast<std::size_t>(i);
    look_up_palette(indices.subspan(row * row_bytes, row_bytes), codebooks.of_row(row_begin + i),
                    target.subspan(row * width, width));
  }
}

}  // namespace diffulex_edge
