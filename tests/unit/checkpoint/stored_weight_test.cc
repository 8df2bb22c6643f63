#include "checkpoint/stored_weight.h"

#include <gtest/gtest.h>

#include "checkpoint/same_bytes.h"
#include "support/expect_error.h"
#include "support/formats.h"
#include "support/safetensors_text.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

using testing::TestTensor;

TestTensor filled(const std::string& name, DType dtype, std::vector<std::int64_t> shape) {
  std::size_t size = byte_size(dtype);
  for (const std::int64_t dim : shape) {
    size *= static_cast<std::size_t>(dim);
  }
  return {.name = name, .dtype = dtype, .shape = std::move(shape), .bytes = std::string(size, '\x3f')};
}

class StoredWeightTest : public ::testing::Test {
 protected:
  Checkpoint checkpoint(const std::vector<TestTensor>& tensors) {
    testing::write_file(folder_ / "m.safetensors", testing::safetensors_file(tensors));
    return Checkpoint(folder_ / "m.safetensors");
  }
  testing::TemporaryFolder folder_;
};

TEST_F(StoredWeightTest, DescribesFloats) {
  const Checkpoint file = checkpoint({filled("m", DType::kF32, {3, 5}), filled("v", DType::kF16, {7})});
  const StoredWeight matrix = find_stored_weight(file, "m");
  EXPECT_EQ(matrix.rows, 3);
  EXPECT_EQ(matrix.columns, 5);
  EXPECT_EQ(matrix.scales, nullptr);
  EXPECT_EQ(matrix.source_bytes(), 60);
  const StoredWeight vector = find_stored_weight(file, "v");
  EXPECT_EQ(vector.rows, 1);
  EXPECT_EQ(vector.columns, 7);
  EXPECT_EQ(vector.format, float_format(ElementType::kF16));
  testing::expect_error(ErrorCode::kBadFile, {"no tensor 'x'"}, [&] { find_stored_weight(file, "x"); });
}

TEST_F(StoredWeightTest, ReadsEveryGroupSizeFromTheScales) {
  for (const std::int64_t group : {32, 64, 128, 256}) {
    const Checkpoint file =
        checkpoint({filled("w", DType::kU8, {2, 128}), filled("w_scale", DType::kBF16, {2, 256 / group})});
    const StoredWeight weight = find_stored_weight(file, "w");
    EXPECT_EQ(weight.format, int4_groups(group, ElementType::kBF16));
    EXPECT_EQ(weight.rows, 2);
    EXPECT_EQ(weight.columns, 256);
    EXPECT_EQ(weight.source_bytes(), 2 * 128 + 2 * 2 * (256 / group));
  }
}

TEST_F(StoredWeightTest, RefusesScalesOfOtherShapesAndTypes) {
  const TestTensor int8 = filled("w", DType::kI8, {4, 64});
  const TestTensor int4 = filled("w", DType::kU8, {4, 128});
  const struct {
    TestTensor values;
    DType dtype;
    std::vector<std::int64_t> shape;
  } kCases[] = {
      {int8, DType::kF32, {64}},    {int8, DType::kF32, {4, 1}},    {int8, DType::kF32, {}},
      {int8, DType::kF32, {0}},     {int8, DType::kBF16, {4}},      {int8, DType::kBF16, {4, 2}},
      {int8, DType::kF64, {4}},     {int4, DType::kBF16, {4}},      {int4, DType::kF32, {4, 8}},
      {int4, DType::kF16, {4, 8}},  {int4, DType::kBF16, {8, 4}},   {int4, DType::kBF16, {3, 8}},
      {int4, DType::kBF16, {4, 0}}, {int4, DType::kBF16, {4, 16}},  {int4, DType::kBF16, {4, 3}},
      {int4, DType::kBF16, {4, 5}}, {int4, DType::kBF16, {4, 257}}, {int4, DType::kBF16, {4, 8, 1}},
      {int4, DType::kF32, {128}},
  };
  for (const auto& bad : kCases) {
    SCOPED_TRACE(std::string(to_string(bad.dtype)) + to_string(static_shape(bad.shape)));
    const Checkpoint file = checkpoint({bad.values, filled("w_scale", bad.dtype, bad.shape)});
    testing::expect_error(ErrorCode::kBadFile, {"'w_scale'", "do not fit"}, [&] { find_stored_weight(file, "w"); });
  }
}

TEST_F(StoredWeightTest, SaysThatQuantizedWeightsHaveTwoDimensions) {
  const Checkpoint file = checkpoint({filled("w", DType::kI8, {64}), filled("w_scale", DType::kF32, {64})});
  testing::expect_error(ErrorCode::kBadFile, {"'w'", "two"}, [&] { find_stored_weight(file, "w"); });
}

TEST_F(StoredWeightTest, ComparesBytesPieceByPiece) {
  constexpr std::int64_t kBytes = (std::int64_t{4} << 20U) + 5;  // more than one piece
  std::vector<TestTensor> tensors = {filled("a", DType::kU8, {kBytes}),         filled("b", DType::kI8, {kBytes}),
                                     filled("last", DType::kU8, {kBytes}),      filled("first", DType::kU8, {kBytes}),
                                     filled("short", DType::kU8, {kBytes - 1}), filled("none", DType::kU8, {0}),
                                     filled("null", DType::kF32, {0})};
  tensors[2].bytes.back() = 'x';
  tensors[3].bytes.front() = 'x';
  const Checkpoint file = checkpoint(tensors);
  const TensorView& a = file.at("a");
  EXPECT_TRUE(same_bytes(a, a));
  EXPECT_TRUE(same_bytes(a, file.at("b")));  // whatever they mean
  EXPECT_FALSE(same_bytes(a, file.at("last")));
  EXPECT_FALSE(same_bytes(a, file.at("first")));
  EXPECT_FALSE(same_bytes(a, file.at("short")));
  EXPECT_FALSE(same_bytes(a, file.at("none")));
  EXPECT_TRUE(same_bytes(file.at("none"), file.at("null")));
  EXPECT_EQ(a.bytes.front(), std::byte{0x3f});  // the pages come back
}

}  // namespace
}  // namespace diffulex_edge
