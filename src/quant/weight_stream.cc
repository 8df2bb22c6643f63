#include "quant/weight_stream.h"

#include <algorithm>
#include <chrono>
#include <mutex>
#include <utility>

#include "checkpoint/row_decoder.h"
#include "core/parallel.h"
#include "quant/weight_encoder.h"

namespace diffulex_edge {
namespace {

constexpr std::int64_t kTileBytes = std::int64_t{1} << 20U;  // of source
constexpr std::int64_t kMostEncodedBytes = std::int64_t{8} << 20U;
constexpr std::size_t kTilesAhead = 16;  // read-ahead

struct Tile {
  const StreamJob* job = nullptr;
  const Codebooks* codebooks = nullptr;
  std::int64_t row_begin = 0;
  std::int64_t rows = 0;

  std::int64_t source_bytes() const { return job->source.row_bytes() * rows; }
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

// A weight whose rows share pages is read in as few tiles as a bound on what they encode allows.
std::int64_t tile_rows(const StreamJob& job) {
  const std::int64_t rows = std::max<std::int64_t>(1, kTileBytes / std::max<std::int64_t>(1, job.source.row_bytes()));
  if (job.source.values->decoder == nullptr) {
    return rows;
  }
  const std::int64_t encoded = std::max<std::int64_t>(1, job.format.row_bytes(job.source.columns));
  const std::int64_t most = std::max<std::int64_t>(1, kMostEncodedBytes / encoded);
  return std::min(most, std::max(rows, job.source.values->decoder->rows_together()));
}

std::vector<Tile> make_tiles(std::span<const StreamJob> jobs, std::span<const Codebooks> codebooks) {
  std::vector<Tile> tiles;
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    const StreamJob& job = jobs[i];
    const std::int64_t rows = tile_rows(job);
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
    total += tile.source_bytes();
  }
  ProgressMeter meter(control, total);
  std::vector<EncodingWorker> workers(thread_count(control));
  parallel_for(tiles.size(), control, [&](std::size_t item, std::size_t worker) {
    if (item + kTilesAhead < tiles.size()) {
      const Tile& ahead = tiles[item + kTilesAhead];
      ahead.job->source.will_need(ahead.row_begin, ahead.rows);
    }
    const Tile& tile = tiles[item];
    encode_tile(tile, workers[worker]);
    tile.job->source.release(tile.row_begin, tile.rows);
    meter.add(tile.source_bytes());
  });
}

}  // namespace diffulex_edge
