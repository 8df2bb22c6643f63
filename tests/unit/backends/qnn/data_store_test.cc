#include "backends/qnn/data_store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "quant/kernels/kernels.h"
#include "support/expect_error.h"
#include "support/formats.h"
#include "support/store_test.h"

namespace diffulex_edge::qnn {
namespace {

using testing::expect_error;
using testing::TestTensor;
using Bytes = std::vector<std::byte>;

// What one integer of a stored matrix is: the tests' own reading of the two forms.
std::int64_t signed_byte(std::byte byte) {
  const auto value = std::to_integer<std::int64_t>(byte);
  return value < 128 ? value : value - 256;
}
std::int64_t offset_byte(std::byte byte) { return std::to_integer<std::int64_t>(byte) - 128; }
// The first of two in the low half.
std::int64_t nibble(std::byte byte, bool is_second) {
  return is_second ? std::to_integer<std::int64_t>(byte) >> 4 : std::to_integer<std::int64_t>(byte) & 15;
}

class QnnDataStore : public testing::StoreTest<DataStore> {
 protected:
  void open(const std::vector<TestTensor>& tensors, bool saturate_fp16 = false) {
    StoreTest::open(tensors, saturate_fp16);
  }
  static std::vector<float> wave(std::int64_t count, double step) {
    std::vector<float> values(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] =
          static_cast<float>(std::sin(step * static_cast<double>(i + 1)) * (1.0 + 0.01 * static_cast<double>(i)));
    }
    return values;
  }
  static TestTensor matrix(const std::string& name, std::int64_t rows, std::int64_t columns, double step = 0.7) {
    return {.name = name,
            .dtype = DType::kF32,
            .shape = {rows, columns},
            .bytes = testing::bytes_of(wave(rows * columns, step))};
  }
  StoredMatrix add(const std::string& tensor, const WeightFormat& format, Packing packing) {
    return store_->add_matrix(plan(tensor, format), packing);
  }
  Bytes stream(int threads = 2) const { return stream_bytes({.threads = threads}); }
  static Bytes part(const Bytes& file, const ExternalData& data) {
    EXPECT_EQ(data.offset % 64, 0);
    const auto begin = file.begin() + static_cast<std::ptrdiff_t>(data.offset);
    return {begin, begin + static_cast<std::ptrdiff_t>(data.bytes)};
  }
  template <typename T>
  static std::vector<T> read(const Bytes& file, const ExternalData& data) {
    const Bytes bytes = part(file, data);
    std::vector<T> result(bytes.size() / sizeof(T));
    std::memcpy(result.data(), bytes.data(), bytes.size());
    return result;
  }
  // The definition: each integer is the nearest to weight / scale that there is.
  struct Integers {
    std::vector<float> weights;
    std::vector<std::int64_t> integers;
    std::vector<float> scales;
    std::int64_t least = -128;
    std::int64_t most = 127;
  };
  static void expect_nearest(const Integers& matrix) {
    ASSERT_EQ(matrix.integers.size(), matrix.weights.size());
    const std::size_t block = matrix.weights.size() / matrix.scales.size();
    ASSERT_EQ(block * matrix.scales.size(), matrix.weights.size());
    for (std::size_t i = 0; i < matrix.weights.size(); ++i) {
      const double scale = matrix.scales[i / block];
      const double exact = static_cast<double>(matrix.weights[i]) / scale;
      const double nearest = std::clamp(exact, static_cast<double>(matrix.least), static_cast<double>(matrix.most));
      ASSERT_NEAR(static_cast<double>(matrix.integers[i]), nearest, 0.5001) << "weight " << i;
    }
  }
};

TEST_F(QnnDataStore, HoldsFloatsAsTheyAre) {
  open({matrix("a", 3, 5)});
  const StoredMatrix stored = add("a", float_format(ElementType::kF32), Packing::kFloat32);
  EXPECT_EQ(stored.values.bytes, 60);
  EXPECT_EQ(stored.scales.bytes, 0);
  EXPECT_EQ(stored.bytes(), 60);
  EXPECT_EQ(read<float>(stream(), stored.values), wave(15, 0.7));
}

TEST_F(QnnDataStore, RoundsFloatsToHalves) {
  open({matrix("a", 3, 5)});
  const StoredMatrix stored = add("a", float_format(ElementType::kF32), Packing::kFloat16);
  EXPECT_EQ(stored.bytes(), 30);
  std::vector<std::uint16_t> halves;
  for (const float value : wave(15, 0.7)) {
    halves.push_back(kernels::scalar::f32_to_f16_one(value));
  }
  EXPECT_EQ(read<std::uint16_t>(stream(), stored.values), halves);
}

TEST_F(QnnDataStore, HoldsHalvesBeyondTheirRangeOnlyWhereTold) {
  const TestTensor large{
      .name = "a", .dtype = DType::kF32, .shape = {1, 2}, .bytes = testing::bytes_of(std::vector{1e6F, -1e6F})};
  open({large});
  add("a", float_format(ElementType::kF32), Packing::kFloat16);
  expect_error(ErrorCode::kBadFile, {"'a'", "FP16"},
               [&] { store_->stream([](std::int64_t, std::span<const std::byte>) {}, {}); });
  open({large}, true);
  const StoredMatrix stored = add("a", float_format(ElementType::kF32), Packing::kFloat16);
  EXPECT_EQ(read<std::uint16_t>(stream(), stored.values), (std::vector<std::uint16_t>{0x7BFF, 0xFBFF}));
}

TEST_F(QnnDataStore, HoldsSignedInt8InTwosComplement) {
  open({matrix("a", 3, 5)});
  const StoredMatrix stored = add("a", int8_per_channel(), Packing::kSigned);
  EXPECT_EQ(stored.values.bytes, 15);
  EXPECT_EQ(stored.scales.bytes, 12);
  EXPECT_EQ(stored.scales_per_row, 1);
  EXPECT_EQ(stored.block_size, 0);
  const Bytes file = stream();
  Integers matrix{.weights = wave(15, 0.7), .integers = {}, .scales = read<float>(file, stored.scales)};
  for (const std::byte byte : part(file, stored.values)) {
    matrix.integers.push_back(signed_byte(byte));
  }
  expect_nearest(matrix);
  for (std::size_t row = 0; row < 3; ++row) {
    float largest = 0.0F;
    for (std::size_t j = 0; j < 5; ++j) {
      largest = std::max(largest, std::abs(matrix.weights[row * 5 + j]));
    }
    EXPECT_FLOAT_EQ(matrix.scales[row], largest / 127.0F);
  }
}

TEST_F(QnnDataStore, HoldsSignedInt4InTwosComplementTheFirstInTheLowNibble) {
  for (const bool in_groups : {false, true}) {
    open({matrix("a", 3, 64)});
    const StoredMatrix stored =
        add("a", in_groups ? int4_groups(32, ElementType::kBF16) : int4_per_channel(), Packing::kSigned);
    EXPECT_EQ(stored.values.bytes, 96);
    EXPECT_EQ(stored.scales_per_row, in_groups ? 2 : 1);
    EXPECT_EQ(stored.scales.bytes, 3 * stored.scales_per_row * 4);
    const Bytes file = stream();
    Integers matrix{
        .weights = wave(192, 0.7), .integers = {}, .scales = read<float>(file, stored.scales), .least = -8, .most = 7};
    for (const std::byte byte : part(file, stored.values)) {
      for (const bool second : {false, true}) {
        const std::int64_t value = nibble(byte, second);
        matrix.integers.push_back(value < 8 ? value : value - 16);
      }
    }
    expect_nearest(matrix);
    EXPECT_TRUE(std::ranges::any_of(matrix.integers, [](std::int64_t value) { return value <= -6; }));
    EXPECT_TRUE(std::ranges::any_of(matrix.integers, [](std::int64_t value) { return value >= 6; }));
  }
}

TEST_F(QnnDataStore, HoldsBlocksOfInt4WithTheirZeroInTheMiddle) {
  open({matrix("a", 3, 64)});
  const StoredMatrix stored = add("a", int4_groups(32, ElementType::kBF16), Packing::kBlocks);
  EXPECT_EQ(stored.block_size, 32);
  EXPECT_EQ(stored.scales_per_row, 2);
  const Bytes file = stream();
  Integers matrix{
      .weights = wave(192, 0.7), .integers = {}, .scales = read<float>(file, stored.scales), .least = -8, .most = 7};
  for (const std::byte byte : part(file, stored.values)) {
    for (const bool second : {false, true}) {
      matrix.integers.push_back(nibble(byte, second) - 8);
    }
  }
  expect_nearest(matrix);
}

TEST_F(QnnDataStore, HoldsBlocksOfInt8WithTheirZeroInTheMiddle) {
  open({matrix("a", 3, 48)});
  const StoredMatrix stored = add("a", int8_per_channel(), Packing::kBlocks);
  EXPECT_EQ(stored.values.bytes, 144);
  const Bytes file = stream();
  Integers matrix{.weights = wave(144, 0.7), .integers = {}, .scales = read<float>(file, stored.scales)};
  for (const std::byte byte : part(file, stored.values)) {
    matrix.integers.push_back(offset_byte(byte));
  }
  expect_nearest(matrix);
}

TEST_F(QnnDataStore, RepeatsARowsScaleForEachOfItsBlocks) {
  open({matrix("a", 3, 48), matrix("b", 2, 1024), matrix("c", 2, 64)});
  const StoredMatrix a = add("a", int8_per_channel(), Packing::kBlocks);
  const StoredMatrix b = add("b", int4_per_channel(), Packing::kBlocks);
  const StoredMatrix c = add("c", int8_per_channel(), Packing::kBlocks);
  EXPECT_EQ(a.block_size, 16);
  EXPECT_EQ(a.scales_per_row, 3);
  EXPECT_EQ(b.block_size, 256);  // the largest there is
  EXPECT_EQ(b.scales_per_row, 4);
  EXPECT_EQ(c.block_size, 64);
  EXPECT_EQ(c.scales_per_row, 1);
  const Bytes file = stream();
  for (const StoredMatrix& stored : {a, b}) {
    const std::vector<float> scales = read<float>(file, stored.scales);
    const auto copies = static_cast<std::size_t>(stored.scales_per_row);
    for (std::size_t i = 0; i < scales.size(); ++i) {
      EXPECT_EQ(scales[i], scales[i / copies * copies]);
    }
    EXPECT_NE(scales.front(), scales.back());  // of another row
  }
}

TEST_F(QnnDataStore, AlignsEverythingTo64Bytes) {
  open({matrix("a", 3, 5), matrix("b", 3, 16)});
  EXPECT_EQ(store_->file_bytes(), 0);
  const StoredMatrix a = add("a", int8_per_channel(), Packing::kSigned);
  EXPECT_EQ(a.values.offset, 0);
  EXPECT_EQ(a.scales.offset, 64);
  const ExternalData computed = store_->add_computed(Bytes(3));
  EXPECT_EQ(computed.offset, 128);
  EXPECT_EQ(computed.bytes, 3);
  EXPECT_EQ(store_->file_bytes(), 131);
  EXPECT_EQ(add("b", float_format(ElementType::kF32), Packing::kFloat32).values.offset, 192);
  EXPECT_EQ(store_->file_bytes(), 192 + 3 * 16 * 4);
  stream();
}

TEST_F(QnnDataStore, StoresEqualWeightsOnce) {
  open({matrix("a", 3, 64), matrix("same", 3, 64), matrix("other", 3, 64, 0.3)});
  const StoredMatrix first = add("a", int8_per_channel(), Packing::kSigned);
  EXPECT_TRUE(first.is_new());
  const std::int64_t bytes = store_->file_bytes();
  for (const char* name : {"a", "same"}) {
    const StoredMatrix again = add(name, int8_per_channel(), Packing::kSigned);
    EXPECT_FALSE(again.is_new());
    EXPECT_EQ(again.values.offset, first.values.offset);
    EXPECT_EQ(again.scales.offset, first.scales.offset);
    EXPECT_EQ(again.bytes(), first.bytes());
  }
  EXPECT_EQ(store_->file_bytes(), bytes);
  const StoredMatrix other = add("other", int8_per_channel(), Packing::kSigned);
  EXPECT_TRUE(other.is_new());
  EXPECT_NE(other.values.offset, first.values.offset);
}

// A tied embedding, whose rows are gathered, and a head that multiplies in blocks.
TEST_F(QnnDataStore, SharesTheValuesOfRowsWithThoseOfBlocks) {
  open({matrix("a", 3, 48), matrix("tied", 3, 48)});
  const StoredMatrix rows = add("a", int8_per_channel(), Packing::kUnsigned);
  const StoredMatrix blocks = add("tied", int8_per_channel(), Packing::kBlocks);
  EXPECT_EQ(blocks.values.offset, rows.values.offset);
  EXPECT_NE(blocks.scales.offset, rows.scales.offset);
  EXPECT_TRUE(rows.is_new());
  EXPECT_FALSE(blocks.is_new());
  EXPECT_EQ(rows.new_bytes, 3 * 48 + 3 * 4);
  EXPECT_EQ(blocks.new_bytes, 3 * 3 * 4);
  EXPECT_EQ(add("a", int8_per_channel(), Packing::kUnsigned).new_bytes, 0);
  const Bytes file = stream();
  const std::vector<float> scales = read<float>(file, rows.scales);
  const std::vector<float> repeated = read<float>(file, blocks.scales);
  Integers stored{.weights = wave(3 * 48, 0.7), .scales = scales};
  for (const std::uint8_t value : read<std::uint8_t>(file, rows.values)) {
    stored.integers.push_back(static_cast<std::int64_t>(value) - 128);
  }
  expect_nearest(stored);
  for (std::size_t i = 0; i < repeated.size(); ++i) {
    EXPECT_EQ(repeated[i], scales[i / 3]);
  }
}

// The number of a weight that was refused went to the next one.
TEST_F(QnnDataStore, TakesOthersAfterARefusal) {
  open({matrix("a", 3, 20), matrix("b", 3, 16)});
  testing::expect_error(ErrorCode::kUnsupported, {"not multiples of 16"},
                        [&] { add("a", int8_per_channel(), Packing::kBlocks); });
  const StoredMatrix stored = add("b", int8_per_channel(), Packing::kBlocks);
  EXPECT_EQ(stored.values.bytes, 3 * 16);
  testing::expect_error(ErrorCode::kUnsupported, {"not multiples of 16"},
                        [&] { add("a", int8_per_channel(), Packing::kBlocks); });
}

TEST_F(QnnDataStore, KeepsOtherFormsOfAWeightApart) {
  open({matrix("a", 3, 64)});
  std::vector<StoredMatrix> forms = {add("a", int8_per_channel(), Packing::kSigned),
                                     add("a", int8_per_channel(), Packing::kBlocks),
                                     add("a", int8_per_channel(), Packing::kFloat32),
                                     add("a", int8_per_channel(), Packing::kFloat16),
                                     add("a", int4_per_channel(), Packing::kSigned),
                                     add("a", int4_groups(32, ElementType::kBF16), Packing::kSigned),
                                     add("a", int4_groups(64, ElementType::kBF16), Packing::kSigned)};
  LayerPlan searched = plan("a", int8_per_channel());
  searched.method = RoundingMethod::MSE;
  forms.push_back(store_->add_matrix(searched, Packing::kSigned));
  std::set<std::int64_t> offsets;
  for (const StoredMatrix& form : forms) {
    EXPECT_TRUE(form.is_new());
    offsets.insert(form.values.offset);
  }
  EXPECT_EQ(offsets.size(), forms.size());
  // But a matrix of floats is the same whatever was planned for it.
  EXPECT_FALSE(add("a", float_format(ElementType::kF32), Packing::kFloat32).is_new());
  stream();
}

TEST_F(QnnDataStore, StoresEqualComputedDataOnce) {
  open({matrix("a", 1, 1)});
  const Bytes one = {std::byte{1}, std::byte{2}};
  const Bytes two = {std::byte{1}, std::byte{2}, std::byte{0}};
  const ExternalData first = store_->add_computed(one);
  EXPECT_EQ(store_->add_computed(Bytes(one)).offset, first.offset);
  const ExternalData second = store_->add_computed(two);
  EXPECT_NE(second.offset, first.offset);
  const Bytes file = stream();
  EXPECT_EQ(part(file, first), one);
  EXPECT_EQ(part(file, second), two);
}

TEST_F(QnnDataStore, RefusesInt4RowsOfOddLengthByName) {
  open({matrix("a", 3, 33)});
  for (const Packing packing : {Packing::kSigned, Packing::kBlocks}) {
    expect_error(ErrorCode::kUnsupported, {"the.a", "4-bit", "33", "exclude"},
                 [&] { add("a", int4_per_channel(), packing); });
  }
  add("a", int8_per_channel(), Packing::kSigned);  // and these it takes
  add("a", int4_per_channel(), Packing::kFloat32);
}

TEST_F(QnnDataStore, RefusesRowsWithoutBlocksByName) {
  open({matrix("a", 3, 24), matrix("b", 3, 8)});
  for (const char* name : {"a", "b"}) {
    for (const WeightFormat& format : {int8_per_channel(), int4_per_channel()}) {
      expect_error(ErrorCode::kUnsupported, {std::string("the.") + name, "16", "static"},
                   [&] { add(name, format, Packing::kBlocks); });
      EXPECT_EQ(store_->file_bytes(), 0);
    }
  }
}

TEST_F(QnnDataStore, IsTheSameForAnyNumberOfThreads) {
  open({matrix("a", 130, 2048), matrix("b", 257, 512, 0.3), matrix("c", 7, 30)});
  add("a", int4_groups(32, ElementType::kBF16), Packing::kBlocks);
  add("a", int8_per_channel(), Packing::kBlocks);
  add("b", int4_per_channel(), Packing::kSigned);
  add("b", float_format(ElementType::kF16), Packing::kFloat16);
  add("c", int8_per_channel(), Packing::kSigned);
  store_->add_computed(Bytes(77, std::byte{5}));
  const Bytes one = stream(1);
  EXPECT_TRUE(one == stream(4));
}

}  // namespace
}  // namespace diffulex_edge::qnn
