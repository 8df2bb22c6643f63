// How weights are cut into tiles, and what callbacks may do.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <mutex>
#include <optional>
#include <stdexcept>

#include "quant/weight_stream.h"
#include "support/expect_error.h"
#include "support/formats.h"
#include "support/safetensors_text.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

class StreamJobs : public ::testing::Test {
 protected:
  StreamJobs() {
    std::vector<testing::TestTensor> tensors;
    for (std::size_t i = 0; i < kRows.size(); ++i) {
      std::vector<float> values(static_cast<std::size_t>(kRows[i]) * 96);
      for (std::size_t j = 0; j < values.size(); ++j) {
        values[j] = std::sin(static_cast<float>(i + j));
      }
      tensors.push_back({.name = "w" + std::to_string(i),
                         .dtype = DType::kF32,
                         .shape = {kRows[i], 96},
                         .bytes = testing::bytes_of(values)});
    }
    testing::write_file(folder_ / "m.safetensors", testing::safetensors_file(tensors));
    checkpoint_.emplace(folder_ / "m.safetensors");
  }

  // One job for each tensor; `visit(job, tile)` is called under a lock.
  std::vector<StreamJob> jobs(std::function<void(std::size_t, const EncodedTile&)> visit) {
    std::vector<StreamJob> result;
    for (std::size_t i = 0; i < kRows.size(); ++i) {
      StreamJob job{.source = find_stored_weight(*checkpoint_, "w" + std::to_string(i)), .format = int8_per_channel()};
      job.sink = [this, i, visit](const EncodedTile& tile) {
        const std::scoped_lock lock(mutex_);
        visit(i, tile);
      };
      result.push_back(std::move(job));
    }
    return result;
  }

  static constexpr std::array<std::int64_t, 4> kRows = {1, 6000, 3, 12'000};  // some of many tiles
  testing::TemporaryFolder folder_;
  std::optional<Checkpoint> checkpoint_;
  std::mutex mutex_;
};

TEST_F(StreamJobs, TilesDependOnTheShapeAlone) {
  std::vector<std::pair<std::int64_t, std::int64_t>> tiles[2];
  for (const int threads : {1, 3}) {
    auto& found = tiles[threads / 2];
    stream_weights(jobs([&](std::size_t job, const EncodedTile& tile) {
                     found.emplace_back(static_cast<std::int64_t>(job) << 32U | tile.row_begin, tile.rows);
                   }),
                   {.threads = threads});
    std::ranges::sort(found);
  }
  EXPECT_EQ(tiles[0], tiles[1]);
  EXPECT_GT(tiles[0].size(), kRows.size());
}

TEST_F(StreamJobs, PassesOnWhateverSinksAndCallbacksThrow) {
  const auto failing = jobs([](std::size_t job, const EncodedTile&) {
    if (job == 2) {
      throw std::out_of_range("sink");
    }
  });
  EXPECT_THROW(stream_weights(failing, {.threads = 3}), std::out_of_range);
  RunControl control{.threads = 2};
  control.on_progress = [](const Progress&) { throw std::length_error("callback"); };
  EXPECT_THROW(stream_weights(jobs([](std::size_t, const EncodedTile&) {}), control), std::length_error);
}

TEST_F(StreamJobs, HasNothingToDoWithoutJobs) { EXPECT_NO_THROW(stream_weights({}, {.threads = 2})); }

TEST_F(StreamJobs, LetsASinkChangeItsTile) {
  const auto all = jobs([](std::size_t, const EncodedTile& tile) {
    std::ranges::fill(tile.values, std::byte{0});
    std::ranges::fill(tile.scales, std::byte{0});
  });
  stream_weights(all, {.threads = 1});
  bool found = false;
  stream_weights(jobs([&](std::size_t, const EncodedTile& tile) { found |= tile.values[1] != std::byte{0}; }),
                 {.threads = 1});
  EXPECT_TRUE(found);  // the source is untouched
}

}  // namespace
}  // namespace diffulex_edge
