#include "quant/weight_stream.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>

#include "quant/kernels/kernels.h"
#include "support/expect_error.h"
#include "support/formats.h"
#include "support/tiny_model.h"

namespace diffulex_edge {
namespace {

using testing::bytes_of;
using testing::TestTensor;

class StreamWeights : public ::testing::Test {
 protected:
  struct Result {
    std::vector<std::byte> values;
    std::vector<std::byte> scales;
    std::vector<int> rows_seen;
  };

  void write(const TestTensor& tensor) {
    testing::write_file(folder_ / "m.safetensors", testing::safetensors_file({tensor}));
    checkpoint_ = std::make_unique<Checkpoint>(folder_ / "m.safetensors");
    name_ = tensor.name;
  }
  void write_floats(const std::vector<float>& values, std::vector<std::int64_t> shape) {
    write({.name = "w", .dtype = DType::kF32, .shape = std::move(shape), .bytes = bytes_of(values)});
  }

  Result stream(const WeightFormat& format, bool saturate = false, const RunControl& control = {}) {
    const StoredWeight source = find_stored_weight(*checkpoint_, name_);
    const std::int64_t value_row = format.row_bytes(source.columns);
    const std::int64_t scale_row = format.scales_per_row(source.columns) * format.scale_bytes();
    Result result;
    result.values.resize(static_cast<std::size_t>(source.rows * value_row));
    result.scales.resize(static_cast<std::size_t>(source.rows * scale_row));
    result.rows_seen.resize(static_cast<std::size_t>(source.rows));
    std::mutex mutex;
    StreamJob job{.source = source, .format = format, .saturate_fp16 = saturate};
    job.sink = [&](const EncodedTile& tile) {
      const std::scoped_lock lock(mutex);
      std::ranges::copy(tile.values, result.values.begin() + tile.row_begin * value_row);
      std::ranges::copy(tile.scales, result.scales.begin() + tile.row_begin * scale_row);
      for (std::int64_t row = 0; row < tile.rows; ++row) {
        ++result.rows_seen[static_cast<std::size_t>(tile.row_begin + row)];
      }
    };
    stream_weights(std::span(&job, 1), control);
    return result;
  }

  testing::TemporaryFolder folder_;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::string name_;
};

TEST_F(StreamWeights, Int8IsTheStoredFormatToTheLetter) {
  // scale = 127 / 127 = 1: ties go to even; the second row is zeros.
  write_floats({127.0F, 0.5F, 1.5F, -2.5F, 0.0F, 0.0F, 0.0F, 0.0F}, {2, 4});
  const Result result = stream(int8_per_channel());
  const std::vector<std::int8_t> expected = {127, 0, 2, -2, 0, 0, 0, 0};
  EXPECT_EQ(std::memcmp(result.values.data(), expected.data(), expected.size()), 0);
  const std::vector<float> scales = {1.0F, 1.0F};
  EXPECT_EQ(std::memcmp(result.scales.data(), scales.data(), 8), 0);
}

TEST_F(StreamWeights, Int4RoundsTheScaleBeforeTheWeights) {
  std::vector<float> row(32, 0.0F);
  row[0] = 7.03F;  // scale bf16(7.03 / 7 = 1.00428...) = 1.0
  row[1] = -8.6F;  // -8.6 / 8 = 1.075 is larger: scale bf16(1.075) = 1.078125 (nearest of 1.0703125, 1.078125)
  row[2] = 3.3F;
  write_floats(row, {1, 32});
  const Result result = stream(int4_groups(32, ElementType::kBF16));
  std::uint16_t bits = 0;
  std::memcpy(&bits, result.scales.data(), 2);
  const float scale = kernels::scalar::bf16_to_f32_one(bits);
  EXPECT_EQ(scale, 1.078125F);
  const auto nibble = [&](std::size_t i) {
    return static_cast<int>((static_cast<unsigned>(result.values[i / 2]) >> (i % 2 * 4)) & 15U) - 8;
  };
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(nibble(i), static_cast<int>(std::nearbyint(row[i] / scale))) << i;
  }
  EXPECT_EQ(nibble(1), -8);
  EXPECT_EQ(nibble(31), 0);
}

TEST_F(StreamWeights, EveryRowComesOnceAndThreadsChangeNothing) {
  constexpr std::int64_t kRows = 4001;  // some tiles, the last one short
  constexpr std::int64_t kColumns = 1056;
  std::vector<float> values(kRows * kColumns);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = std::sin(static_cast<float>(i));
  }
  write_floats(values, {kRows, kColumns});
  std::int64_t last_done = 0;
  RunControl control{.threads = 1};
  control.on_progress = [&](const Progress& progress) {
    last_done = progress.done_bytes;
    EXPECT_EQ(progress.total_bytes, kRows * kColumns * 4);
  };
  const Result one = stream(int4_groups(32, ElementType::kBF16), false, control);
  EXPECT_EQ(last_done, kRows * kColumns * 4);
  for (const int seen : one.rows_seen) {
    EXPECT_EQ(seen, 1);
  }
  for (int threads = 2; threads <= 4; ++threads) {
    const Result many = stream(int4_groups(32, ElementType::kBF16), false, {.threads = threads});
    EXPECT_EQ(many.values, one.values);
    EXPECT_EQ(many.scales, one.scales);
  }
}

TEST_F(StreamWeights, NamesTheElementThatIsNotFinite) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    write_floats({1.0F, 2.0F, 3.0F, bad}, {2, 2});
    for (const WeightFormat& format :
         {float_format(ElementType::kF32), float_format(ElementType::kF16), int8_per_channel()}) {
      testing::expect_error(ErrorCode::kBadFile, {"tensor 'w'", "element [1, 1]", "not finite"},
                            [&] { stream(format); });
    }
  }
}

TEST_F(StreamWeights, Fp16OverflowFailsOrSaturates) {
  write_floats({1.0F, -70000.0F}, {1, 2});
  testing::expect_error(ErrorCode::kBadFile, {"tensor 'w'", "element [0, 1]", "-70000", "65504"},
                        [&] { stream(float_format(ElementType::kF16)); });
  const Result result = stream(float_format(ElementType::kF16), true);
  std::uint16_t bits = 0;
  std::memcpy(&bits, result.values.data() + 2, 2);
  EXPECT_EQ(bits, 0xFBFF);  // -65504
  write_floats({65504.0F}, {1, 1});
  EXPECT_NO_THROW(stream(float_format(ElementType::kF16)));
}

TEST_F(StreamWeights, ReadsUnalignedHalfPrecisionSources) {
  const std::string data = "x" + bytes_of(std::vector<std::uint16_t>{0x3F80, 0xC000});  // bf16 1, -2
  testing::write_file(folder_ / "m.safetensors",
                      testing::safetensors_bytes(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                                                 R"("w":{"dtype":"BF16","shape":[1,2],"data_offsets":[1,5]}})",
                                                 data));
  checkpoint_ = std::make_unique<Checkpoint>(folder_ / "m.safetensors");
  name_ = "w";
  const Result result = stream(float_format(ElementType::kF32));
  const std::vector<float> expected = {1.0F, -2.0F};
  EXPECT_EQ(std::memcmp(result.values.data(), expected.data(), 8), 0);
}

TEST_F(StreamWeights, StopsAndPassesFailuresOn) {
  write_floats(std::vector<float>(64, 1.0F), {8, 8});
  std::stop_source source;
  source.request_stop();
  testing::expect_error(ErrorCode::kCancelled, {}, [&] {
    stream(float_format(ElementType::kF32), false, {.threads = 2, .stop = source.get_token()});
  });
  StreamJob job{.source = find_stored_weight(*checkpoint_, "w"), .format = float_format(ElementType::kF32)};
  job.sink = [](const EncodedTile&) { throw Error(ErrorCode::kIo, "x", "full"); };
  testing::expect_error(ErrorCode::kIo, {"full"}, [&] { stream_weights(std::span(&job, 1), {}); });
}

TEST_F(StreamWeights, EveryRowOfAnyShapeComesOnce) {
  const std::pair<std::int64_t, std::int64_t> kShapes[] = {{1, 1}, {7, 5}, {1, 600'001}, {3, 262'145}, {300'001, 1}};
  for (const auto& [rows, columns] : kShapes) {
    std::vector<float> values(static_cast<std::size_t>(rows * columns));
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>(i % 251);
    }
    write_floats(values, {rows, columns});
    const Result result = stream(float_format(ElementType::kF32), false, {.threads = 3});
    EXPECT_EQ(std::ranges::count(result.rows_seen, 1), rows) << rows << " x " << columns;
    EXPECT_EQ(std::memcmp(result.values.data(), values.data(), result.values.size()), 0);
  }
}

TEST_F(StreamWeights, ProgressCountsTheBytesOfAllJobsAndNeverFalls) {
  write_floats(std::vector<float>(1000 * 1000, 1.0F), {1000, 1000});
  StreamJob job{.source = find_stored_weight(*checkpoint_, "w"), .format = int8_per_channel()};
  job.sink = [](const EncodedTile&) {};
  const std::vector<StreamJob> jobs(3, job);
  std::int64_t done = 0;
  RunControl control{.threads = 4};
  control.on_progress = [&](const Progress& progress) {
    EXPECT_GT(progress.done_bytes, done);
    EXPECT_EQ(progress.total_bytes, 12'000'000);
    done = progress.done_bytes;
  };
  stream_weights(jobs, control);
  EXPECT_EQ(done, 12'000'000);
}

TEST_F(StreamWeights, StopsWithinOneTileForEachThread) {
  write_floats(std::vector<float>(40 * 262'144, 1.0F), {40, 262'144});  // a tile for each row
  for (const int threads : {1, 4}) {
    std::stop_source source;
    std::atomic<int> tiles = 0;
    StreamJob job{.source = find_stored_weight(*checkpoint_, "w"), .format = int8_per_channel()};
    job.sink = [&](const EncodedTile&) {
      ++tiles;
      source.request_stop();
    };
    testing::expect_error(ErrorCode::kCancelled, {}, [&] {
      stream_weights(std::span(&job, 1), {.threads = threads, .stop = source.get_token()});
    });
    EXPECT_LE(tiles, threads);
  }
}

TEST_F(StreamWeights, PassesOnWhatASinkThrowsFromAnyThread) {
  write_floats(std::vector<float>(40 * 262'144, 1.0F), {40, 262'144});
  for (const int threads : {1, 4}) {
    std::atomic<int> tiles = 0;
    StreamJob job{.source = find_stored_weight(*checkpoint_, "w"), .format = int8_per_channel()};
    job.sink = [&](const EncodedTile& tile) {
      ++tiles;
      if (tile.row_begin == 5) {
        throw Error(ErrorCode::kIo, "disk", "full");
      }
    };
    testing::expect_error(ErrorCode::kIo, {"disk: full"},
                          [&] { stream_weights(std::span(&job, 1), {.threads = threads}); });
    if (threads == 1) {
      EXPECT_LT(tiles, 40);  // with more threads the others may finish before the failure is seen
    }
  }
}

}  // namespace
}  // namespace diffulex_edge
