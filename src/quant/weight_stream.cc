#include "quant/weight_stream.h"

#include <algorithm>
#include <chrono>
#include <mutex>
#include <utility>

#include "core/mapped_file.h"
#include "core/parallel.h"
#include "quant/weight_encoder.h"

namespace diffulex_edge {
namespace {

constexpr std::int64_t kTileBytes = std::int64_t{1} << 20U;  // of source
constexpr std::size_t kTilesAhead = 16;                      // read-ahead

struct Tile {
  const StreamJob* job = nullptr;
  const Codebooks* codebooks = nullptr;
  std::int64_t row_begin = 0;
  std::int64_t rows = 0;

  std::span<const std::byte> source_bytes() const { return job->source.value_rows(row_begin, rows); }
};

// By job; empty ones where the format has no tables.
std::vector<Codebooks> fit_all(std::span<const StreamJob> jobs, const RunControl& control) {
  std::vector<CodebookJob> wanted;
  std::vector<std::size_t> places;
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    if (jobs[i].format.has_codebook()) {
      wanted.push_back({.source = jobs[i].source, .format = jobs[i].format, .importance = jobs[i].importance});
      places.push_back(i);
    }
  }
  std::vector<Codebooks> result(jobs.size());
  std::vector<Codebooks> fitted = fit_codebooks(wanted, control);
  for (std::size_t i = 0; i < fitted.size(); ++i) {
    result[places[i]] = std::move(fitted[i]);
  }
  return result;
}

std::vector<Tile> make_tiles(std::span<const StreamJob> jobs, std::span<const Codebooks> codebooks) {
  std::vector<Tile> tiles;
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    const StreamJob& job = jobs[i];
    const auto row_bytes = static_cast<std::int64_t>(job.source.values->bytes.size()) / job.source.rows;
    const std::int64_t rows = std::max<std::int64_t>(1, kTileBytes / std::max<std::int64_t>(1, row_bytes));
    for (std::int64_t row = 0; row < job.source.rows; row += rows) {
      tiles.push_back({.job = &job,
                       .codebooks = job.format.has_codebook() ? &codebooks[i] : nullptr,
                       .row_begin = row,
                       .rows = std::min(rows, job.source.rows - row)});
    }
  }
  return tiles;
}

// Adds up finished bytes and calls the callback at most 20 times a second.
class ProgressMeter {
 public:
  ProgressMeter(const RunControl& control, std::int64_t total) : control_(control) {
    progress_ = {.stage = "weights", .done_bytes = 0, .total_bytes = total};
  }

  void add(std::int64_t bytes) {
    if (!control_.on_progress) {
      return;
    }
    const std::scoped_lock lock(mutex_);
    progress_.done_bytes += bytes;
    const auto now = std::chrono::steady_clock::now();
    if (progress_.done_bytes == progress_.total_bytes || now - last_call_ > std::chrono::milliseconds(50)) {
      last_call_ = now;
      control_.on_progress(progress_);
    }
  }

 private:
  const RunControl& control_;
  std::mutex mutex_;
  Progress progress_;
  std::chrono::steady_clock::time_point last_call_;
};

struct EncodingWorker {
  EncodeScratch scratch;
  std::vector<std::byte> values;
  std::vector<std::byte> scales;
};

void encode_tile(const Tile& tile, EncodingWorker& worker) {
  const StreamJob& job = *tile.job;
  const std::int64_t columns = job.source.columns;
  const std::int64_t scales = job.format.scales_per_row(columns) * job.format.scale_bytes();
  worker.values.resize(static_cast<std::size_t>(tile.rows * job.format.row_bytes(columns)));
  worker.scales.resize(static_cast<std::size_t>(tile.rows * scales));
  encode_rows(job.source, job.format,
              {.method = job.method, .saturate_fp16 = job.saturate_fp16, .codebooks = tile.codebooks}, tile.row_begin,
              tile.rows, worker.scratch, worker.values, worker.scales);
  job.sink({.row_begin = tile.row_begin,
            .rows = tile.rows,
            .values = worker.values,
            .scales = worker.scales,
            .codebooks = tile.codebooks});
}

}  // namespace

void stream_weights(std::span<const StreamJob> jobs, const RunControl& control) {
  const std::vector<Codebooks> codebooks = fit_all(jobs, control);
  const std::vector<Tile> tiles = make_tiles(jobs, codebooks);
  std::int64_t total = 0;
  for (const Tile& tile : tiles) {
    total += static_cast<std::int64_t>(tile.source_bytes().size());
  }
  ProgressMeter meter(control, total);
  std::vector<EncodingWorker> workers(thread_count(control));
  parallel_for(tiles.size(), control, [&](std::size_t item, std::size_t worker) {
    if (item + kTilesAhead < tiles.size()) {
      const Tile& ahead = tiles[item + kTilesAhead];
      MappedFile::will_need(ahead.source_bytes());
    }
    const Tile& tile = tiles[item];
    encode_tile(tile, workers[worker]);
    MappedFile::release(tile.source_bytes());
    meter.add(static_cast<std::int64_t>(tile.source_bytes().size()));
  });
}

}  // namespace diffulex_edge
