#include "backends/coreml/weight_store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <set>

#include "quant/kernels/kernels.h"
#include "quant/palette.h"
#include "quant/weight_encoder.h"
#include "support/expect_error.h"
#include "support/formats.h"
#include "support/store_test.h"

namespace diffulex_edge::coreml {
namespace {

using testing::TestTensor;
using Bytes = std::vector<std::byte>;

constexpr float kLeastNormalHalf = 0x1p-14F;

// BlobDataType of coremltools' mlmodel/src/MILBlob.
constexpr std::uint32_t kFloat16Blob = 1;
constexpr std::uint32_t kFloat32Blob = 2;
constexpr std::uint32_t kUint8Blob = 3;
constexpr std::uint32_t kInt8Blob = 4;
constexpr std::uint32_t kInt4Blob = 8;

float half_to_float(std::uint16_t bits) { return kernels::scalar::f16_to_f32_one(bits); }
std::uint16_t float_to_half(float value) { return kernels::scalar::f32_to_f16_one(value); }

template <typename T>
std::vector<T> as(const Bytes& bytes) {
  std::vector<T> result(bytes.size() / sizeof(T));
  std::memcpy(result.data(), bytes.data(), bytes.size());
  return result;
}

std::vector<float> halves_to_floats(const Bytes& bytes) {
  std::vector<float> result;
  for (const std::uint16_t bits : as<std::uint16_t>(bytes)) {
    result.push_back(half_to_float(bits));
  }
  return result;
}

// Two's complement, the element with the even index in the low nibble.
std::vector<int> signed_nibbles(const Bytes& bytes) {
  std::vector<int> result;
  for (const std::byte both : bytes) {
    for (const int nibble : {std::to_integer<int>(both) & 15, std::to_integer<int>(both) >> 4}) {
      result.push_back(nibble < 8 ? nibble : nibble - 16);
    }
  }
  return result;
}

// A streamed weight file.
struct File {
  struct Blob {
    std::uint32_t type = 0;
    Bytes data;
  };
  Bytes bytes;

  template <typename T>
  T load(std::size_t offset) const {
    T value{};
    std::memcpy(&value, bytes.data() + offset, sizeof(value));
    return value;
  }
  Blob blob(const BlobReference& reference) const {
    const auto at = static_cast<std::size_t>(reference.offset);
    EXPECT_EQ(at % 64, 0U);
    EXPECT_EQ(load<std::uint32_t>(at), 0xDEADBEEFU);
    const auto size = load<std::uint64_t>(at + 8);
    const auto data = load<std::uint64_t>(at + 16);
    EXPECT_EQ(data, at + 64);
    for (std::size_t i = 24; i < 64; ++i) {
      EXPECT_EQ(bytes[at + i], std::byte{0}) << i;
    }
    const auto begin = bytes.begin() + static_cast<std::ptrdiff_t>(data);
    return {.type = load<std::uint32_t>(at + 4), .data = Bytes(begin, begin + static_cast<std::ptrdiff_t>(size))};
  }
};

class CoreMLWeightStore : public testing::StoreTest<WeightStore> {
 protected:
  void open(const std::vector<TestTensor>& tensors, const WeightSettings& settings = {}) {
    StoreTest::open(tensors, settings);
  }
  static TestTensor floats(const std::string& name, std::vector<std::int64_t> shape, const std::vector<float>& values) {
    return {.name = name, .dtype = DType::kF32, .shape = std::move(shape), .bytes = testing::bytes_of(values)};
  }
  static std::vector<float> wave(std::int64_t count, double step, float scale = 1.0F) {
    std::vector<float> values(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = scale * static_cast<float>(std::sin(step * static_cast<double>(i + 1)));
    }
    return values;
  }
  static TestTensor matrix(const std::string& name, std::int64_t rows, std::int64_t columns, double step = 0.7) {
    return floats(name, {rows, columns}, wave(rows * columns, step));
  }
  StoredMatrix add(const std::string& tensor, const WeightFormat& format) {
    return store_->add_matrix(plan(tensor, format));
  }
  File stream(const RunControl& control = {.threads = 2}) const { return {.bytes = stream_bytes(control)}; }
  // What the quantizers' own encoder makes of a weight.
  struct Encoded {
    Bytes values;
    Bytes scales;
  };
  Encoded encode(const std::string& tensor, const WeightFormat& format) const {
    const StoredWeight source = find_stored_weight(*checkpoint_, tensor);
    Encoded result;
    result.values.resize(static_cast<std::size_t>(source.rows * format.row_bytes(source.columns)));
    result.scales.resize(
        static_cast<std::size_t>(source.rows * format.scales_per_row(source.columns) * format.scale_bytes()));
    EncodeScratch scratch;
    encode_rows(source, format, {}, 0, source.rows, scratch, result.values, result.scales);
    return result;
  }
  static std::vector<float> bf16_to_floats(const Bytes& bytes) {
    std::vector<float> result;
    for (const std::uint16_t bits : as<std::uint16_t>(bytes)) {
      result.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16U));
    }
    return result;
  }
};

const WeightSettings kSingle = {.arithmetic = MilDtype::kFloat32};

// Of every number of bits that a palette can have.
std::vector<WeightFormat> palette_formats(std::int64_t rows_per_table = 0) {
  std::vector<WeightFormat> formats;
  for (const FormatRow& row : all_formats()) {
    if (row.has_codebook()) {
      formats.push_back(row.format(rows_per_table));
    }
  }
  return formats;
}

std::uint32_t blob_type(const WeightFormat& format) {
  const std::map<int, std::uint32_t> types = {{1, 9}, {2, 10}, {3, 12}, {4, 11}, {6, 13}, {8, 3}};
  return types.at(format.bits());
}

TEST_F(CoreMLWeightStore, BeginsWithTheNumberOfBlobs) {
  open({matrix("a", 3, 64), matrix("b", 2, 5)});
  EXPECT_EQ(store_->file_bytes(), 64);
  const StoredMatrix a = add("a", int8_per_channel());
  const StoredMatrix b = add("b", float_format(ElementType::kF32));
  const BlobReference c = store_->add_computed(std::vector<float>{1.0F, 2.0F, 3.0F});
  EXPECT_EQ(a.values.offset, 64);
  EXPECT_EQ(a.scales.offset, 64 + 64 + 192);
  EXPECT_EQ(b.values.offset, 64 + 64 + 192 + 64 + 64);  // 6 bytes of scales before it
  EXPECT_EQ(c.offset, b.values.offset + 64 + 64);       // 20 bytes before it
  EXPECT_EQ(store_->file_bytes(), c.offset + 64 + 6);
  for (const BlobReference& reference : {a.values, a.scales, b.values, c}) {
    EXPECT_EQ(reference.file, "@model_path/weights/weight.bin");
  }
  const File file = stream();
  EXPECT_EQ(file.load<std::uint32_t>(0), 4U);
  EXPECT_EQ(file.load<std::uint32_t>(4), 2U);  // the format's version
  for (std::size_t i = 8; i < 64; ++i) {
    EXPECT_EQ(file.bytes[i], std::byte{0});
  }
  EXPECT_EQ(file.blob(a.values).data.size(), 192U);
  EXPECT_EQ(file.blob(a.scales).data.size(), 6U);
  EXPECT_EQ(file.blob(b.values).data.size(), 20U);
  EXPECT_EQ(halves_to_floats(file.blob(c).data), (std::vector<float>{1.0F, 2.0F, 3.0F}));
}

TEST_F(CoreMLWeightStore, NamesTheFileThatItIsToldTo) {
  open({matrix("a", 3, 64)}, {.file = "@model_path/weights/7-weight.bin"});
  const StoredMatrix a = add("a", int4_groups(32, ElementType::kBF16));
  EXPECT_EQ(a.values.file, "@model_path/weights/7-weight.bin");
  EXPECT_EQ(a.scales.file, "@model_path/weights/7-weight.bin");
}

TEST_F(CoreMLWeightStore, StoresFloatsInTheArithmeticsType) {
  for (const bool half : {true, false}) {
    open({matrix("a", 3, 5), floats("v", {4}, {1.0F, 0.1F, -2.5F, 1e-5F})}, half ? WeightSettings{} : kSingle);
    const StoredMatrix a = add("a", float_format(ElementType::kF32));
    EXPECT_EQ(a.format, float_format(half ? ElementType::kF16 : ElementType::kF32));
    EXPECT_EQ(a.bytes, half ? 30 : 60);
    bool is_new = false;
    const BlobReference v = store_->add_vector(plan("v", float_format(ElementType::kF32)), is_new);
    EXPECT_TRUE(is_new);
    EXPECT_EQ(store_->add_vector(plan("v", float_format(ElementType::kF32)), is_new).offset, v.offset);
    EXPECT_FALSE(is_new);
    const BlobReference c = store_->add_computed(wave(6, 0.3));
    const File file = stream();
    const auto expect = [&](const BlobReference& reference, const std::vector<float>& values) {
      const File::Blob blob = file.blob(reference);
      EXPECT_EQ(blob.type, half ? kFloat16Blob : kFloat32Blob);
      if (!half) {
        EXPECT_EQ(as<float>(blob.data), values);
        return;
      }
      std::vector<std::uint16_t> halves;
      std::ranges::transform(values, std::back_inserter(halves), float_to_half);
      EXPECT_EQ(as<std::uint16_t>(blob.data), halves);
    };
    expect(a.values, wave(15, 0.7));
    expect(v, {1.0F, 0.1F, -2.5F, 1e-5F});
    expect(c, wave(6, 0.3));
  }
}

TEST_F(CoreMLWeightStore, KeepsFp16InSingleArithmetic) {
  open({matrix("a", 3, 5)}, kSingle);
  const StoredMatrix half = add("a", float_format(ElementType::kF16));
  EXPECT_EQ(half.format, float_format(ElementType::kF16));
  const StoredMatrix full = add("a", float_format(ElementType::kF32));
  EXPECT_EQ(full.format, float_format(ElementType::kF32));
  EXPECT_TRUE(full.is_new);
  const File file = stream();
  EXPECT_EQ(file.blob(half.values).type, kFloat16Blob);
  EXPECT_EQ(halves_to_floats(file.blob(half.values).data)[0], half_to_float(float_to_half(wave(1, 0.7)[0])));
}

TEST_F(CoreMLWeightStore, StoresInt8AsTheQuantizerEncodesIt) {
  for (const bool half : {true, false}) {
    open({matrix("a", 9000, 64)}, half ? WeightSettings{} : kSingle);  // several tiles
    const StoredMatrix a = add("a", int8_per_channel());
    EXPECT_EQ(a.format.element, ElementType::kI8);
    EXPECT_EQ(a.scales_per_row, 1);
    EXPECT_EQ(a.bytes, 9000 * 64 + 9000 * (half ? 2 : 4));
    const Encoded expected = encode("a", int8_per_channel());
    const File file = stream();
    EXPECT_EQ(file.blob(a.values).type, kInt8Blob);
    EXPECT_TRUE(file.blob(a.values).data == expected.values);
    const File::Blob scales = file.blob(a.scales);
    EXPECT_EQ(scales.type, half ? kFloat16Blob : kFloat32Blob);
    if (half) {
      std::vector<std::uint16_t> halves;
      std::ranges::transform(as<float>(expected.scales), std::back_inserter(halves), float_to_half);
      EXPECT_EQ(as<std::uint16_t>(scales.data), halves);
    } else {
      EXPECT_TRUE(scales.data == expected.scales);
    }
  }
}

TEST_F(CoreMLWeightStore, StoresInt4InTwosComplementAndItsScalesExactly) {
  for (const WeightFormat& format : {int4_groups(32, ElementType::kBF16), int4_groups(64, ElementType::kBF16)}) {
    for (const bool half : {true, false}) {
      open({matrix("a", 5000, 128)}, half ? WeightSettings{} : kSingle);
      const StoredMatrix a = add("a", format);
      EXPECT_EQ(a.format.element, ElementType::kI4);
      EXPECT_EQ(a.scales_per_row, 128 / format.group_size);
      EXPECT_EQ(a.bytes, 5000 * 64 + 5000 * a.scales_per_row * (half ? 2 : 4));
      const Encoded expected = encode("a", format);
      const File file = stream();
      const File::Blob values = file.blob(a.values);
      EXPECT_EQ(values.type, kInt4Blob);
      ASSERT_EQ(values.data.size(), expected.values.size());
      std::vector<int> integers;
      for (const std::byte both : expected.values) {  // q + 8
        integers.push_back((std::to_integer<int>(both) & 15) - 8);
        integers.push_back((std::to_integer<int>(both) >> 4) - 8);
      }
      EXPECT_TRUE(signed_nibbles(values.data) == integers);
      const File::Blob scales = file.blob(a.scales);
      EXPECT_EQ(scales.type, half ? kFloat16Blob : kFloat32Blob);
      EXPECT_TRUE((half ? halves_to_floats(scales.data) : as<float>(scales.data)) == bf16_to_floats(expected.scales));
    }
  }
}

TEST_F(CoreMLWeightStore, StoresInt4WithOneScaleARow) {
  open({matrix("a", 3, 10)}, kSingle);
  const StoredMatrix a = add("a", int4_per_channel());
  EXPECT_EQ(a.scales_per_row, 1);
  const Encoded expected = encode("a", int4_per_channel());
  const File file = stream();
  EXPECT_TRUE(file.blob(a.scales).data == expected.scales);
  EXPECT_EQ(file.blob(a.values).data.size(), 15U);
}

// Below 2^-14 float16 loses bits, and some units take it for 0.
TEST_F(CoreMLWeightStore, RaisesInt8ScalesThatFp16WouldLose) {
  std::vector<float> values = wave(4 * 32, 0.7);
  for (std::size_t i = 0; i < 32; ++i) {
    values[32 + i] *= 1e-4F;  // steps of 8e-7 become steps of 6e-5
    values[64 + i] *= 5e-3F;  // steps of 4e-5
    values[96 + i] = 0.0F;
  }
  open({floats("a", {4, 32}, values)});
  const StoredMatrix a = add("a", int8_per_channel());
  const Encoded expected = encode("a", int8_per_channel());
  const File file = stream();
  const std::vector<float> scales = halves_to_floats(file.blob(a.scales).data);
  const auto integers = as<std::int8_t>(file.blob(a.values).data);
  const auto before = as<std::int8_t>(expected.values);
  const auto scales_before = as<float>(expected.scales);
  int changed = 0;
  for (std::size_t row = 0; row < 4; ++row) {
    const bool raised = scales_before[row] < kLeastNormalHalf;
    EXPECT_EQ(raised, row == 1 || row == 2);
    EXPECT_EQ(scales[row], raised ? kLeastNormalHalf : half_to_float(float_to_half(scales_before[row])));
    for (std::size_t i = row * 32; i < row * 32 + 32; ++i) {
      const float value = static_cast<float>(before[i]) * scales_before[row];
      if (raised) {
        EXPECT_LE(std::fabs(static_cast<float>(integers[i]) * kLeastNormalHalf - value), 0.5001F * kLeastNormalHalf);
        changed += integers[i] == before[i] ? 0 : 1;
      } else {
        EXPECT_EQ(integers[i], before[i]);
      }
    }
  }
  EXPECT_GT(changed, 40);
}

TEST_F(CoreMLWeightStore, RaisesScalesOfInt4GroupsEachForItself) {
  std::vector<float> values = wave(3 * 64, 0.7);
  for (std::size_t i = 0; i < 32; ++i) {
    values[32 + i] *= 3e-4F;  // the second group of the first row
    values[64 + i] *= 1e-6F;  // the first of the second
  }
  const WeightFormat format = int4_groups(32, ElementType::kBF16);
  open({floats("a", {3, 64}, values)});
  const StoredMatrix a = add("a", format);
  const Encoded expected = encode("a", format);
  const File file = stream();
  const std::vector<float> scales = halves_to_floats(file.blob(a.scales).data);
  const std::vector<float> scales_before = bf16_to_floats(expected.scales);
  const std::vector<int> integers = signed_nibbles(file.blob(a.values).data);
  int changed = 0;
  for (std::size_t group = 0; group < 6; ++group) {
    const bool raised = group == 1 || group == 2;
    EXPECT_EQ(scales_before[group] < kLeastNormalHalf, raised);
    EXPECT_EQ(scales[group], raised ? kLeastNormalHalf : scales_before[group]);
    for (std::size_t i = group * 32; i < group * 32 + 32; ++i) {
      const int nibble = (std::to_integer<int>(expected.values[i / 2]) >> (i % 2 == 0 ? 0 : 4)) & 15;
      const float value = static_cast<float>(nibble - 8) * scales_before[group];
      EXPECT_LE(std::fabs(static_cast<float>(integers[i]) * scales[group] - value),
                raised ? 0.5001F * scales[group] : 0)
          << i;
      changed += integers[i] == nibble - 8 ? 0 : 1;
    }
  }
  EXPECT_GT(changed, 40);
  open({floats("a", {3, 64}, values)}, kSingle);  // float32 holds them
  const StoredMatrix single = add("a", format);
  EXPECT_EQ(as<float>(stream().blob(single.scales).data), scales_before);
}

TEST_F(CoreMLWeightStore, RefusesScalesBeyondFp16) {
  std::vector<float> values = wave(2 * 32, 0.7);
  values[40] = 65504.0F * 127.5F;
  open({floats("a", {2, 32}, values)});
  add("a", int8_per_channel());
  testing::expect_error(ErrorCode::kUnsupported,
                        {"the.a: has a scale of 657", "beyond FP16", "--activation-dtype fp32"}, [&] { stream(); });
  open({floats("a", {2, 32}, values)}, kSingle);
  add("a", int8_per_channel());
  EXPECT_NO_THROW(stream());
}

TEST_F(CoreMLWeightStore, TakesIntegersOfQuantizedCheckpointsAsTheyAre) {
  const std::vector<std::uint16_t> bf16 = {0x3F80, 0x3A81, 0x4100};
  std::string nibbles;
  for (int i = 0; i < 48; ++i) {
    nibbles.push_back(static_cast<char>(i * 37));
  }
  open({{"a", DType::kI8, {2, 4}, std::string("\x80\x7F\0\1\2\3\4\5", 8)},
        floats("a_scale", {2}, {0.5F, 0.25F}),
        {"b", DType::kU8, {3, 16}, nibbles},
        {"b_scale", DType::kBF16, {3, 1}, testing::bytes_of(bf16)}});
  const StoredMatrix a = add("a", int8_per_channel());
  const StoredMatrix b = add("b", int4_groups(32, ElementType::kBF16));
  const File file = stream();
  EXPECT_EQ(as<std::int8_t>(file.blob(a.values).data), (std::vector<std::int8_t>{-128, 127, 0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(halves_to_floats(file.blob(a.scales).data), (std::vector<float>{0.5F, 0.25F}));
  const Bytes stored = file.blob(b.values).data;
  for (std::size_t i = 0; i < nibbles.size(); ++i) {
    EXPECT_EQ(std::to_integer<int>(stored[i]), (nibbles[i] & 255) ^ 0x88);
  }
  EXPECT_EQ(halves_to_floats(file.blob(b.scales).data),
            (std::vector<float>{1.0F, std::bit_cast<float>(0x3A810000U), 8.0F}));
}

TEST_F(CoreMLWeightStore, StoresEqualWeightsOnce) {
  open({matrix("a", 3, 64), matrix("b", 3, 64), matrix("c", 6, 32), matrix("d", 3, 64, 0.8)});
  const StoredMatrix first = add("a", int8_per_channel());
  EXPECT_TRUE(first.is_new);
  const std::int64_t bytes = store_->file_bytes();
  for (const char* again : {"a", "b"}) {
    const StoredMatrix stored = add(again, int8_per_channel());
    EXPECT_FALSE(stored.is_new);
    EXPECT_EQ(stored.values.offset, first.values.offset);
    EXPECT_EQ(stored.scales.offset, first.scales.offset);
    EXPECT_EQ(stored.bytes, first.bytes);
  }
  EXPECT_EQ(store_->file_bytes(), bytes);
  for (const char* other : {"c", "d"}) {
    EXPECT_TRUE(add(other, int8_per_channel()).is_new);
  }
  EXPECT_TRUE(add("b", int4_groups(32, ElementType::kBF16)).is_new);
  EXPECT_TRUE(add("b", int4_per_channel()).is_new);
  LayerPlan searched = plan("b", int8_per_channel());
  searched.method = RoundingMethod::MSE;  // other integers
  EXPECT_TRUE(store_->add_matrix(searched).is_new);
  stream();
}

// FP32 and FP16 weights are the same where the arithmetic is FP16, such as a tied embedding and head.
TEST_F(CoreMLWeightStore, StoresAWeightOnceWhateverFloatWasAskedFor) {
  open({matrix("a", 3, 64)});
  const StoredMatrix full = add("a", float_format(ElementType::kF32));
  const StoredMatrix half = add("a", float_format(ElementType::kF16));
  EXPECT_FALSE(half.is_new);
  EXPECT_EQ(half.values.offset, full.values.offset);
}

TEST_F(CoreMLWeightStore, StoresEqualComputedDataOnce) {
  open({matrix("a", 1, 2)});
  const std::vector<float> values = {1.0F, 2.0F};
  const BlobReference first = store_->add_computed(values);
  EXPECT_EQ(store_->add_computed(values).offset, first.offset);
  EXPECT_EQ(store_->add_computed(std::vector<float>{1.0F, 2.0F + 1e-6F}).offset, first.offset);  // in float16
  EXPECT_NE(store_->add_computed(std::vector<float>{1.0F, 3.0F}).offset, first.offset);
  EXPECT_NE(store_->add_computed(std::vector<float>{1.0F}).offset, first.offset);
  open({matrix("a", 1, 2)}, kSingle);
  EXPECT_NE(store_->add_computed(values).offset, store_->add_computed(std::vector<float>{1.0F, 2.0F + 1e-6F}).offset);
}

TEST_F(CoreMLWeightStore, FitsPalettesToTheWholeWeightOrToGroupsOfRows) {
  constexpr std::int64_t kRows = 600;
  constexpr std::int64_t kColumns = 1024;  // several tiles
  const std::vector<float> values = wave(kRows * kColumns, 0.7);
  std::size_t checked = 0;
  for (const std::int64_t group : {std::int64_t{0}, std::int64_t{300}, std::int64_t{120}}) {
    for (const WeightFormat& format : palette_formats(group)) {
      const bool half = checked++ % 2 == 0;
      SCOPED_TRACE(to_string(format));
      open({matrix("a", kRows, kColumns)}, {.arithmetic = half ? MilDtype::kFloat16 : MilDtype::kFloat32});
      const StoredMatrix a = add("a", format);
      const std::int64_t tables = group == 0 ? 1 : kRows / group;
      const std::int64_t size = std::int64_t{1} << format.bits();
      EXPECT_EQ(a.format.element, format.element);
      EXPECT_EQ(a.tables_count, tables);
      EXPECT_EQ(a.bytes, kRows * kColumns * format.bits() / 8 + tables * size * (half ? 2 : 4));
      const File file = stream();
      const File::Blob indices = file.blob(a.values);
      const File::Blob table = file.blob(a.tables);
      EXPECT_EQ(indices.type, blob_type(format));
      EXPECT_EQ(table.type, half ? kFloat16Blob : kFloat32Blob);
      const std::vector<float> stored = half ? halves_to_floats(table.data) : as<float>(table.data);
      ASSERT_EQ(std::ssize(stored), size * tables);
      const std::size_t part = values.size() / static_cast<std::size_t>(tables);
      const std::size_t bytes = part * static_cast<std::size_t>(format.bits()) / 8;
      for (std::size_t i = 0; i < static_cast<std::size_t>(tables); ++i) {
        const auto own = std::span(values).subspan(i * part, part);
        PaletteHistogram histogram;
        histogram.add(own);
        const Palette palette = histogram.fit(format.bits(), half ? ElementType::kF16 : ElementType::kF32);
        const auto width = static_cast<std::size_t>(size);
        ASSERT_TRUE(std::ranges::equal(palette, std::span(stored).subspan(i * width, width))) << i;
        Bytes wanted(bytes);
        assign_palette(own, palette, wanted);
        ASSERT_TRUE(std::ranges::equal(wanted, std::span(indices.data).subspan(i * bytes, bytes))) << i;
      }
    }
  }
  EXPECT_EQ(checked, 18U);
}

TEST_F(CoreMLWeightStore, StoresIndicesAsBytesWhereThereIsNothingSmaller) {
  for (const WeightFormat& format : palette_formats()) {
    open({matrix("a", 4, 8)}, {.has_sub_bytes = false});
    const StoredMatrix a = add("a", format);
    const File file = stream();
    EXPECT_EQ(file.blob(a.values).type, kUint8Blob);
    EXPECT_EQ(std::ssize(file.blob(a.values).data), 4 * format.bits());
    EXPECT_EQ(std::ssize(file.blob(a.tables).data), 2 << format.bits());
  }
}

TEST_F(CoreMLWeightStore, StoresInt8BesidePalettes) {
  open({matrix("a", 4, 6)});
  const WeightFormat palette = palette_format(ElementType::kPalette4, 2);
  EXPECT_EQ(add("a", int8_per_channel()).format, int8_per_channel());
  EXPECT_EQ(add("a", float_format(ElementType::kF16)).format, float_format(ElementType::kF16));
  EXPECT_EQ(add("a", palette).format, palette);
  stream();
}

TEST_F(CoreMLWeightStore, HasTheSameBytesWithAnyNumberOfThreads) {
  for (const WeightFormat& format :
       {int4_groups(32, ElementType::kBF16), palette_format(ElementType::kPalette4, 100)}) {
    open({matrix("a", 9000, 64), matrix("b", 3000, 64, 0.3)});
    add("a", format);
    add("b", int8_per_channel());
    add("b", float_format(ElementType::kF32));
    const File one = stream({.threads = 1});
    EXPECT_TRUE(stream({.threads = 2}).bytes == one.bytes);
    EXPECT_TRUE(stream({.threads = 3}).bytes == one.bytes);
  }
}

TEST_F(CoreMLWeightStore, RefusesRowsThatEndInsideAByte) {
  std::vector<WeightFormat> formats = palette_formats();
  formats.push_back(int4_per_channel());
  for (const WeightFormat& format : formats) {
    open({matrix("a", 4, 7)});
    if (format.bits() == 8) {
      EXPECT_NO_THROW(add("a", format));
      continue;
    }
    const std::string said = "the.a: rows of 7 elements of " + std::to_string(format.bits()) +
                             " bits, which end inside a byte, are not available with Core ML (exclude the layer, or "
                             "use 8 bits)";
    testing::expect_error(ErrorCode::kUnsupported, {said}, [&] { add("a", format); });
    EXPECT_NO_THROW(add("a", int8_per_channel()));
  }
}

TEST_F(CoreMLWeightStore, RefusesWeightsThatAreNotFinite) {
  std::vector<float> values = wave(4 * 8, 0.7);
  values[17] = std::numeric_limits<float>::quiet_NaN();
  for (const WeightFormat& format : {int8_per_channel(), int4_per_channel(), float_format(ElementType::kF32),
                                     palette_format(ElementType::kPalette4, 2)}) {
    open({floats("a", {4, 8}, values)});
    add("a", format);
    testing::expect_error(ErrorCode::kBadFile, {"'a'", "element [2, 1] = nan is not finite"}, [&] { stream(); });
  }
}

TEST_F(CoreMLWeightStore, RefusesFloatsBeyondFp16UnlessTheySaturate) {
  std::vector<float> values = wave(4 * 8, 0.7);
  values[17] = 7e4F;
  open({floats("a", {4, 8}, values)});
  add("a", float_format(ElementType::kF32));
  testing::expect_error(ErrorCode::kBadFile, {"'a'", "[2, 1]", "does not fit in FP16"}, [&] { stream(); });
  open({floats("a", {4, 8}, values)}, {.saturate_fp16 = true});
  const StoredMatrix a = add("a", float_format(ElementType::kF32));
  EXPECT_EQ(halves_to_floats(stream().blob(a.values).data)[17], 65504.0F);
}

TEST_F(CoreMLWeightStore, RefusesPalettesBeyondFp16) {
  std::vector<float> values = wave(4 * 8, 0.7);
  values[17] = 7e4F;
  const WeightFormat palette = palette_format(ElementType::kPalette4, 0);
  open({floats("a", {4, 8}, values)});
  add("a", palette);
  testing::expect_error(ErrorCode::kUnsupported,
                        {"'a'", "has a palette with values beyond FP16 (65504) (use --activation-dtype fp32)"},
                        [&] { stream(); });
  open({floats("a", {4, 8}, values)}, kSingle);
  add("a", palette);
  EXPECT_NO_THROW(stream());
}

TEST_F(CoreMLWeightStore, StopsWhenAsked) {
  std::stop_source source;
  source.request_stop();
  for (const WeightFormat& format : {int4_per_channel(), palette_format(ElementType::kPalette4, 0)}) {
    open({matrix("a", 4, 8)});
    add("a", format);
    testing::expect_error(ErrorCode::kCancelled, {"stopped"}, [&] {
      store_->stream([](std::int64_t, auto) {}, {.threads = 1, .stop = source.get_token()});
    });
  }
}

}  // namespace
}  // namespace diffulex_edge::coreml
