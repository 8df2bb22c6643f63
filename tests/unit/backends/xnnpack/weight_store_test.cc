#include "backends/xnnpack/weight_store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <mutex>
#include <optional>

#include "support/formats.h"
#include "support/safetensors_text.h"
#include "support/temporary_folder.h"

namespace diffulex_edge::xnnpack {
namespace {

using testing::TestTensor;

class WeightStoreTest : public ::testing::Test {
 protected:
  void open(const std::vector<TestTensor>& tensors) {
    testing::write_file(folder_ / "m.safetensors", testing::safetensors_file(tensors));
    checkpoint_.emplace(folder_ / "m.safetensors");
    store_.emplace(*checkpoint_, false);
  }
  static TestTensor matrix(const std::string& name, std::int64_t rows, std::int64_t columns, double step) {
    std::vector<float> values(static_cast<std::size_t>(rows * columns));
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>(std::sin(step * static_cast<double>(i + 1)));
    }
    return {.name = name, .dtype = DType::kF32, .shape = {rows, columns}, .bytes = testing::bytes_of(values)};
  }
  LayerPlan plan(const std::string& tensor, const WeightFormat& format) const {
    const StoredWeight stored = find_stored_weight(*checkpoint_, tensor);
    return {.layer = tensor,
            .tensor = tensor,
            .rows = stored.rows,
            .columns = stored.columns,
            .source = stored.format,
            .format = format};
  }
  // All segments as the file gets them; -1 where nothing was written.
  std::vector<std::vector<int>> stream(int threads = 2) const {
    std::vector<std::vector<int>> result;
    for (const Segment& segment : store_->segments()) {
      result.emplace_back(static_cast<std::size_t>(segment.size), -1);
    }
    std::mutex mutex;
    store_->stream(
        [&](std::uint32_t segment, std::int64_t offset, std::span<const std::byte> bytes) {
          const std::scoped_lock lock(mutex);
          for (std::size_t i = 0; i < bytes.size(); ++i) {
            int& target = result.at(segment).at(static_cast<std::size_t>(offset) + i);
            EXPECT_EQ(target, -1) << "written twice";
            target = static_cast<int>(bytes[i]);
          }
        },
        {.threads = threads});
    return result;
  }
  testing::TemporaryFolder folder_;
  std::optional<Checkpoint> checkpoint_;
  std::optional<WeightStore> store_;
};

TEST_F(WeightStoreTest, StoresEqualTensorsOnce) {
  TestTensor same = matrix("b", 3, 64, 0.7);
  TestTensor reshaped = matrix("c", 6, 32, 0.7);
  open({matrix("a", 3, 64, 0.7), same, reshaped, matrix("d", 3, 64, 0.8)});
  const StoredParts first = store_->add_filter(plan("a", int8_per_channel()));
  EXPECT_TRUE(first.is_new);
  for (const char* again : {"a", "b"}) {
    const StoredParts parts = store_->add_filter(plan(again, int8_per_channel()));
    EXPECT_FALSE(parts.is_new);
    EXPECT_EQ(parts.values_segment, first.values_segment);
  }
  for (const char* other : {"c", "d"}) {  // another shape has other channels
    EXPECT_TRUE(store_->add_filter(plan(other, int8_per_channel())).is_new);
  }
  EXPECT_TRUE(store_->add_filter(plan("b", int4_per_channel())).is_new);
  EXPECT_EQ(store_->segments().size(), 4U);
}

TEST_F(WeightStoreTest, KeepsEqualIntegersOfDifferentScalesApart) {
  const auto scales = [](const std::string& name, float scale) {
    return TestTensor{
        .name = name, .dtype = DType::kF32, .shape = {1}, .bytes = testing::bytes_of(std::vector<float>{scale})};
  };
  const auto integers = [](const std::string& name) {
    return TestTensor{.name = name, .dtype = DType::kI8, .shape = {1, 4}, .bytes = "abcd"};
  };
  open({integers("a"), scales("a_scale", 1.0F), integers("b"), scales("b_scale", 2.0F), integers("c"),
        scales("c_scale", 1.0F)});
  EXPECT_TRUE(store_->add_filter(plan("a", int8_per_channel())).is_new);
  EXPECT_TRUE(store_->add_filter(plan("b", int8_per_channel())).is_new);
  EXPECT_FALSE(store_->add_filter(plan("c", int8_per_channel())).is_new);
}

TEST_F(WeightStoreTest, GivesEverySegmentANameOfItsOwn) {
  open({matrix("a", 3, 64, 0.7), matrix("v", 1, 64, 0.9)});
  for (const WeightFormat& format : {float_format(ElementType::kF32), float_format(ElementType::kF16),
                                     int8_per_channel(), int4_groups(32, ElementType::kBF16)}) {
    store_->add_embedding(plan("a", format));
    store_->add_filter(plan("a", format));
  }
  store_->add_computed("constant.0", {});
  std::vector<std::string> names;
  for (const Segment& segment : store_->segments()) {
    names.push_back(segment.name);
  }
  std::ranges::sort(names);
  EXPECT_EQ(std::ranges::adjacent_find(names), names.end());
}

TEST_F(WeightStoreTest, PutsFilterScalesOfGroupsIntoTheirOwnSegment) {
  open({matrix("a", 3, 64, 0.7)});
  const StoredParts parts = store_->add_filter(plan("a", int4_groups(32, ElementType::kBF16)));
  ASSERT_TRUE(parts.scales_segment.has_value());
  EXPECT_EQ(parts.values_bytes, 3 * 32);
  EXPECT_EQ(parts.scales_bytes, 3 * 2 * 2);
  const auto written = stream();
  EXPECT_EQ(written[*parts.scales_segment].size(), 12U);
  for (const auto& segment : written) {
    EXPECT_EQ(std::ranges::find(segment, -1), segment.end());
  }
}

TEST_F(WeightStoreTest, SwapsNibblesOfEmbeddingsAndAppendsTheirScales) {
  open({matrix("a", 5, 32, 0.7)});
  const LayerPlan packed = plan("a", int4_groups(32, ElementType::kBF16));
  const StoredParts table = store_->add_embedding(packed);
  const StoredParts filter = store_->add_filter(packed);
  EXPECT_NE(table.values_segment, filter.values_segment);
  EXPECT_EQ(table.scales_offset, 5 * 16);
  EXPECT_EQ(store_->segments()[table.values_segment].size, 5 * 16 + 5 * 4);
  const auto written = stream();
  const auto& high_first = written[table.values_segment];
  const auto& low_first = written[filter.values_segment];
  for (std::size_t i = 0; i < 5 * 16; ++i) {
    EXPECT_EQ(high_first[i], (low_first[i] >> 4 | low_first[i] << 4) & 255) << i;
  }
  const auto& bf16 = written[*filter.scales_segment];
  for (std::size_t row = 0; row < 5; ++row) {  // the same scales, as float32
    EXPECT_EQ(high_first[80 + row * 4], 0);
    EXPECT_EQ(high_first[81 + row * 4], 0);
    EXPECT_EQ(high_first[82 + row * 4], bf16[row * 2]);
    EXPECT_EQ(high_first[83 + row * 4], bf16[row * 2 + 1]);
  }
}

TEST_F(WeightStoreTest, AlignsTheScalesBehindAnEmbedding) {
  open({matrix("a", 3, 7, 0.7)});
  const StoredParts parts = store_->add_embedding(plan("a", int8_per_channel()));
  EXPECT_EQ(parts.values_bytes, 21);
  EXPECT_EQ(parts.scales_offset, 32);
  EXPECT_EQ(store_->segments()[parts.values_segment].size, 32 + 12);
}

TEST_F(WeightStoreTest, SharesAnInt8TableWithItsFilter) {
  open({matrix("a", 3, 64, 0.7)});
  const StoredParts table = store_->add_embedding(plan("a", int8_per_channel()));
  const StoredParts filter = store_->add_filter(plan("a", int8_per_channel()));
  EXPECT_EQ(table.values_segment, filter.values_segment);
  EXPECT_FALSE(filter.is_new);
  std::vector<float> scales(3);
  store_->on_channel_scales(plan("a", int8_per_channel()),
                            [&](std::int64_t row, std::span<const float> tile, std::span<const std::byte> values) {
                              EXPECT_EQ(values.size(), 64 * tile.size());
                              std::ranges::copy(tile, scales.begin() + row);
                            });
  const auto written = stream();
  for (std::size_t row = 0; row < 3; ++row) {
    const auto bits = std::bit_cast<std::uint32_t>(scales[row]);
    for (std::size_t byte = 0; byte < 4; ++byte) {
      EXPECT_EQ(written[table.values_segment][static_cast<std::size_t>(table.scales_offset) + row * 4 + byte],
                static_cast<int>(bits >> (8 * byte) & 255U));
    }
  }
}

TEST_F(WeightStoreTest, GivesEveryReceiverEveryRowOnce) {
  open({matrix("a", 9000, 64, 0.7)});  // several tiles
  const LayerPlan layer = plan("a", int8_per_channel());
  store_->add_filter(layer);
  std::vector<int> first(9000);
  std::vector<int> second(9000);
  for (std::vector<int>* seen : {&first, &second}) {
    store_->on_channel_scales(layer,
                              [seen](std::int64_t row, std::span<const float> scales, std::span<const std::byte>) {
                                for (std::size_t i = 0; i < scales.size(); ++i) {
                                  ++seen->at(static_cast<std::size_t>(row) + i);
                                }
                              });
  }
  stream(4);
  EXPECT_EQ(first, std::vector<int>(9000, 1));
  EXPECT_EQ(second, std::vector<int>(9000, 1));
}

TEST_F(WeightStoreTest, FinishesWhenEveryWeightIsStreamed) {
  open({matrix("a", 9000, 64, 0.7)});
  const LayerPlan layer = plan("a", int8_per_channel());
  store_->add_filter(layer);
  std::atomic<std::int64_t> rows = 0;
  store_->on_channel_scales(layer, [&](std::int64_t, std::span<const float> scales, std::span<const std::byte>) {
    rows += static_cast<std::int64_t>(scales.size());
  });
  const std::uint32_t reserved = store_->add_reserved("later", 2);
  store_->on_streamed([&](const WeightStore::Write& write) {
    EXPECT_EQ(rows, 9000);
    write(reserved, 1, std::array{std::byte{7}});
  });
  EXPECT_EQ(stream(4)[reserved], (std::vector<int>{-1, 7}));
}

TEST_F(WeightStoreTest, LeavesRoomBehindVectors) {
  open({{.name = "v", .dtype = DType::kF32, .shape = {5}, .bytes = std::string(20, 'x')}});
  const StoredParts full = store_->add_vector(plan("v", float_format(ElementType::kF32)), ElementType::kF32);
  EXPECT_EQ(full.values_bytes, 20);
  EXPECT_EQ(store_->segments()[full.values_segment].size, 20 + 128);
  const StoredParts half = store_->add_vector(plan("v", float_format(ElementType::kF32)), ElementType::kF16);
  EXPECT_NE(half.values_segment, full.values_segment);
  EXPECT_EQ(half.values_bytes, 10);
}

TEST_F(WeightStoreTest, SharesComputedDataByTheirBytes) {
  open({matrix("a", 1, 1, 0.7)});
  const std::vector<std::byte> one(12, std::byte{1});
  const std::vector<std::byte> two(12, std::byte{2});
  const std::vector<std::byte> shorter(8, std::byte{1});
  const std::uint32_t first = store_->add_computed("x", one);
  EXPECT_EQ(store_->add_computed("y", one), first);
  EXPECT_NE(store_->add_computed("z", two), first);
  EXPECT_NE(store_->add_computed("s", shorter), first);
  EXPECT_EQ(store_->segments()[first].size, 12 + 128);
  const auto written = stream();
  EXPECT_EQ(written[first][11], 1);
  EXPECT_EQ(written[first][12], 0);
}

}  // namespace
}  // namespace diffulex_edge::xnnpack
