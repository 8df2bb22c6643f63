// The stored formats, element by element, against their definitions written out.
#include "quant/weight_encoder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>

#include "support/expect_error.h"
#include "support/formats.h"
#include "support/safetensors_text.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

using testing::bytes_of;
using testing::TestTensor;

struct Encoded {
  std::vector<std::byte> values;
  std::vector<std::byte> scales;

  template <typename T>
  std::vector<T> scales_as() const {
    std::vector<T> result(scales.size() / sizeof(T));
    std::memcpy(result.data(), scales.data(), scales.size());
    return result;
  }
  std::vector<int> int8() const {
    std::vector<int> result;
    for (const std::byte value : values) {
      result.push_back(static_cast<std::int8_t>(value));
    }
    return result;
  }
  // The nibbles of all rows, minus 8; an odd row's last one is left out.
  std::vector<int> int4(std::size_t columns) const {
    std::vector<int> result;
    const std::size_t row_bytes = (columns + 1) / 2;
    for (std::size_t row = 0; row < values.size() / row_bytes; ++row) {
      for (std::size_t i = 0; i < columns; ++i) {
        const auto byte = static_cast<unsigned>(values[row * row_bytes + i / 2]);
        result.push_back(static_cast<int>((byte >> (i % 2 * 4)) & 15U) - 8);
      }
    }
    return result;
  }
};

class WeightEncoder : public ::testing::Test {
 protected:
  void write(const std::vector<TestTensor>& tensors) {
    testing::write_file(folder_ / "m.safetensors", testing::safetensors_file(tensors));
    checkpoint_ = std::make_unique<Checkpoint>(folder_ / "m.safetensors");
  }
  void write(const std::vector<float>& values, std::int64_t columns) {
    const auto rows = static_cast<std::int64_t>(values.size()) / columns;
    write({{.name = "w", .dtype = DType::kF32, .shape = {rows, columns}, .bytes = bytes_of(values)}});
  }
  Encoded encode(const WeightFormat& format, bool saturate = false, std::int64_t row_begin = 0,
                 std::int64_t row_count = -1) {
    const StoredWeight source = find_stored_weight(*checkpoint_, "w");
    const std::int64_t rows = row_count < 0 ? source.rows : row_count;
    const std::int64_t scale_bytes = format.scales_per_row(source.columns) * format.scale_bytes();
    Encoded result;
    result.values.resize(static_cast<std::size_t>(rows * format.row_bytes(source.columns)));
    result.scales.resize(static_cast<std::size_t>(rows * scale_bytes));
    EncodeScratch scratch;
    encode_rows(source, format, {.saturate_fp16 = saturate}, row_begin, rows, scratch, result.values, result.scales);
    return result;
  }

  testing::TemporaryFolder folder_;
  std::unique_ptr<Checkpoint> checkpoint_;
};

std::vector<float> random_floats(std::size_t count, float deviation = 0.3F) {
  std::mt19937 generator(7);
  std::normal_distribution<float> normal(0.0F, deviation);
  std::vector<float> values(count);
  std::ranges::generate(values, [&] { return normal(generator); });
  return values;
}

// bfloat16's nearest value, ties to even.
std::uint16_t bf16_bits(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16U) & 1U)) >> 16U);
}
float from_bf16(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16U); }

int quantize(float weight, float scale, float least, float most) {
  return static_cast<int>(std::clamp(std::nearbyint(weight / scale), least, most));
}

TEST_F(WeightEncoder, Int8IsTheLargestMagnitudeOver127RoundedToEven) {
  write({-127.0F, 126.5F, 0.5F, 1.5F, -0.5F, -1.5F, 2.49F, 2.51F}, 8);
  const Encoded ties = encode(int8_per_channel());
  EXPECT_EQ(ties.int8(), (std::vector<int>{-127, 126, 0, 2, 0, -2, 2, 3}));
  EXPECT_EQ(ties.scales_as<float>(), std::vector<float>{1.0F});

  constexpr std::size_t kColumns = 37;
  const std::vector<float> weights = random_floats(5 * kColumns);
  write(weights, kColumns);
  const Encoded encoded = encode(int8_per_channel());
  for (std::size_t row = 0; row < 5; ++row) {
    float largest = 0.0F;
    for (std::size_t i = 0; i < kColumns; ++i) {
      largest = std::max(largest, std::fabs(weights[row * kColumns + i]));
    }
    const float scale = largest / 127.0F;
    EXPECT_EQ(encoded.scales_as<float>()[row], scale);
    for (std::size_t i = row * kColumns; i < (row + 1) * kColumns; ++i) {
      EXPECT_EQ(encoded.int8()[i], quantize(weights[i], scale, -128.0F, 127.0F)) << i;
    }
  }
}

TEST_F(WeightEncoder, Int4GroupsRoundAgainstTheBfloat16Scale) {
  constexpr std::size_t kColumns = 768;
  const std::vector<float> weights = random_floats(3 * kColumns);
  write(weights, kColumns);
  for (const std::size_t group : {32U, 64U, 128U, 256U}) {
    const Encoded encoded = encode(int4_groups(static_cast<std::int64_t>(group), ElementType::kBF16));
    const auto scales = encoded.scales_as<std::uint16_t>();
    const auto nibbles = encoded.int4(kColumns);
    ASSERT_EQ(scales.size(), weights.size() / group);
    for (std::size_t g = 0; g < scales.size(); ++g) {
      const auto [least, most] = std::minmax_element(weights.begin() + static_cast<std::ptrdiff_t>(g * group),
                                                     weights.begin() + static_cast<std::ptrdiff_t>((g + 1) * group));
      EXPECT_EQ(scales[g], bf16_bits(std::max(*most / 7.0F, -*least / 8.0F))) << "group " << g << " of " << group;
      for (std::size_t i = g * group; i < (g + 1) * group; ++i) {
        EXPECT_EQ(nibbles[i], quantize(weights[i], from_bf16(scales[g]), -8.0F, 7.0F)) << i;
      }
    }
  }
}

TEST_F(WeightEncoder, Int4PerChannelTakesRowsOfOddLength) {
  write({7.0F, -8.0F, 3.5F, -7.0F, 0.5F, 2.5F}, 3);
  const Encoded encoded = encode(int4_per_channel());
  ASSERT_EQ(encoded.values.size(), 4U);
  EXPECT_EQ(encoded.scales_as<float>(), (std::vector<float>{1.0F, 7.0F / 8.0F}));
  EXPECT_EQ(encoded.int4(3), (std::vector<int>{7, -8, 4, -8, 1, 3}));
  for (const std::size_t last : {1U, 3U}) {
    EXPECT_EQ(static_cast<unsigned>(encoded.values[last]) >> 4U, 8U);  // what fills the row stands for zero
  }
}

TEST_F(WeightEncoder, ZerosGetScaleOneAndTinyWeightsANormalScale) {
  for (const float weight : {0.0F, -0.0F, 1e-40F, -1e-40F}) {
    write(std::vector<float>(32, weight), 32);
    const float expected = weight == 0.0F ? 1.0F : std::numeric_limits<float>::min();
    EXPECT_EQ(encode(int8_per_channel()).scales_as<float>(), std::vector<float>{expected});
    EXPECT_EQ(encode(int4_per_channel()).scales_as<float>(), std::vector<float>{expected});
    const Encoded groups = encode(int4_groups(32, ElementType::kBF16));
    EXPECT_EQ(from_bf16(groups.scales_as<std::uint16_t>()[0]), expected);
    EXPECT_EQ(groups.int4(32), std::vector<int>(32, 0));
    EXPECT_EQ(encode(int8_per_channel()).int8(), std::vector<int>(32, 0));
  }
}

// Half-precision sources are widened exactly, wherever their bytes lie.
TEST_F(WeightEncoder, SourcesOfEqualValueGiveEqualBytes) {
  const std::vector<float> exact = {1.0F, -2.0F, 0.5F, 100.0F, -0.0078125F, 65504.0F};
  const std::vector<std::uint16_t> f16 = {0x3C00, 0xC000, 0x3800, 0x5640, 0xA000, 0x7BFF};
  std::vector<std::uint16_t> bf16;
  for (const float value : exact) {
    bf16.push_back(bf16_bits(value));
  }
  std::vector<float> rounded(exact.size());
  std::ranges::transform(bf16, rounded.begin(), from_bf16);
  const struct {
    DType dtype;
    std::string bytes;
    const std::vector<float>& meaning;
  } kSources[] = {{DType::kF16, bytes_of(f16), exact}, {DType::kBF16, bytes_of(bf16), rounded}};
  const WeightFormat kFormats[] = {float_format(ElementType::kF32), float_format(ElementType::kBF16),
                                   int8_per_channel(), int4_per_channel()};
  for (const auto& source : kSources) {
    for (const WeightFormat& format : kFormats) {
      write(source.meaning, 3);
      const Encoded expected = encode(format);
      for (std::size_t before = 0; before < 3; ++before) {
        const std::string begin = std::to_string(before);
        const std::string header = R"({"w":{"dtype":")" + std::string(to_string(source.dtype)) +
                                   R"(","shape":[2,3],"data_offsets":[)" + begin + "," + std::to_string(before + 12) +
                                   R"(]},"a":{"dtype":"U8","shape":[)" + begin + R"(],"data_offsets":[0,)" + begin +
                                   "]}}";
        testing::write_file(folder_ / "m.safetensors",
                            testing::safetensors_bytes(header, std::string(before, 'x') + source.bytes));
        checkpoint_ = std::make_unique<Checkpoint>(folder_ / "m.safetensors");
        const Encoded encoded = encode(format);
        EXPECT_EQ(encoded.values, expected.values) << to_string(source.dtype) << " to " << to_string(format);
        EXPECT_EQ(encoded.scales, expected.scales);
      }
    }
  }
}

TEST_F(WeightEncoder, RowsDoNotDependOnTheirNeighbours) {
  write(random_floats(6 * 64), 64);
  for (const WeightFormat& format :
       {float_format(ElementType::kF16), int8_per_channel(), int4_groups(32, ElementType::kBF16), int4_per_channel()}) {
    const Encoded whole = encode(format);
    const Encoded part = encode(format, false, 2, 3);
    const auto row_bytes = static_cast<std::ptrdiff_t>(whole.values.size() / 6);
    const auto row_scales = static_cast<std::ptrdiff_t>(whole.scales.size() / 6);
    EXPECT_TRUE(std::equal(part.values.begin(), part.values.end(), whole.values.begin() + 2 * row_bytes));
    EXPECT_TRUE(std::equal(part.scales.begin(), part.scales.end(), whole.scales.begin() + 2 * row_scales));
  }
}

TEST_F(WeightEncoder, NamesWhatNoFormatCanHold) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const WeightFormat kFormats[] = {float_format(ElementType::kF32),     float_format(ElementType::kF16),
                                   float_format(ElementType::kBF16),    int8_per_channel(),
                                   int4_groups(32, ElementType::kBF16), int4_per_channel()};
  for (const float bad : {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> weights(3 * 32, 1.0F);
    weights[2 * 32 + 17] = bad;
    write(weights, 32);
    for (const WeightFormat& format : kFormats) {
      for (const bool saturate : {false, true}) {  // saturation is for finite weights
        testing::expect_error(ErrorCode::kBadFile, {"tensor 'w'", "element [2, 17]", "not finite"},
                              [&] { encode(format, saturate); });
      }
      EXPECT_NO_THROW(encode(format, false, 0, 2));
    }
  }
}

TEST_F(WeightEncoder, Fp16FailsBeyondItsLargestValueOrSaturates) {
  write({1.0F, 65504.0F, 65505.0F, -1e30F}, 4);
  testing::expect_error(ErrorCode::kBadFile, {"tensor 'w'", "element [0, 2]", "65505", "--saturate-fp16"},
                        [&] { encode(float_format(ElementType::kF16)); });
  const Encoded encoded = encode(float_format(ElementType::kF16), true);
  const std::vector<std::uint16_t> expected = {0x3C00, 0x7BFF, 0x7BFF, 0xFBFF};
  EXPECT_EQ(std::memcmp(encoded.values.data(), expected.data(), 8), 0);
}

class QuantizedSource : public WeightEncoder {
 protected:
  void write_int8(const std::vector<float>& scales) {
    WeightEncoder::write({{.name = "w", .dtype = DType::kI8, .shape = {2, 2}, .bytes = "\x01\xff\x7f\x80"},
                          {.name = "w_scale", .dtype = DType::kF32, .shape = {2}, .bytes = bytes_of(scales)}});
  }
};

TEST_F(QuantizedSource, GoesOutAsItIs) {
  write_int8({0.5F, 2.0F});
  const Encoded encoded = encode(int8_per_channel());
  EXPECT_EQ(encoded.int8(), (std::vector<int>{1, -1, 127, -128}));
  EXPECT_EQ(encoded.scales_as<float>(), (std::vector<float>{0.5F, 2.0F}));
  EXPECT_EQ(encode(int8_per_channel(), false, 1, 1).int8(), (std::vector<int>{127, -128}));
  testing::expect_error(ErrorCode::kInternal, {"'w'"}, [&] { encode(float_format(ElementType::kF32)); });
}

TEST_F(QuantizedSource, MustHavePositiveNormalScales) {
  for (const float bad :
       {0.0F, -1.0F, 1e-40F, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    write_int8({1.0F, bad});
    testing::expect_error(ErrorCode::kBadFile, {"w_scale", "scale 1"}, [&] { encode(int8_per_channel()); });
    testing::expect_error(ErrorCode::kBadFile, {"w_scale", "scale 1"},
                          [&] { encode(int8_per_channel(), false, 1, 1); });
    EXPECT_NO_THROW(encode(int8_per_channel(), false, 0, 1));
  }
}

}  // namespace
}  // namespace diffulex_edge
