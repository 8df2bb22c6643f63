#include "quant/weight_decoder.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "quant/weight_encoder.h"
#include "support/formats.h"

namespace diffulex_edge {
namespace {

constexpr std::int64_t kRows = 3;
constexpr std::int64_t kColumns = 64;

std::vector<float> random_weights() {
  std::mt19937 generator(5);
  std::vector<float> weights(kRows * kColumns);
  for (float& weight : weights) {
    weight = static_cast<float>(generator() % 2001) / 1000.0F - 1.0F;
  }
  return weights;
}

// Encodes the weights as a checkpoint's float32 tensor and decodes them again.
std::vector<float> round_trip(const std::vector<float>& weights, const WeightFormat& format) {
  const TensorView view{.name = "w", .shape = {kRows, kColumns}, .bytes = std::as_bytes(std::span(weights))};
  const StoredWeight source{
      .values = &view, .format = float_format(ElementType::kF32), .rows = kRows, .columns = kColumns};
  std::vector<std::byte> values(static_cast<std::size_t>(kRows * format.row_bytes(kColumns)));
  std::vector<std::byte> scales(
      static_cast<std::size_t>(kRows * format.scales_per_row(kColumns) * format.scale_bytes()));
  EncodeScratch scratch;
  encode_rows(source, format, {}, 0, kRows, scratch, values, scales);
  std::vector<float> decoded(weights.size());
  decode_rows(format, values, scales, kRows, kColumns, decoded);
  return decoded;
}

TEST(WeightDecoder, UndoesTheEncoderUpToHalfAStep) {
  const auto weights = random_weights();
  const struct {
    WeightFormat format;
    float step;
  } kCases[] = {{float_format(ElementType::kF32), 0.0F},       {float_format(ElementType::kF16), 1.0F / 1024.0F},
                {float_format(ElementType::kBF16), 0.008F},    {int8_per_channel(), 1.0F / 127.0F},
                {int4_groups(32, ElementType::kBF16), 0.145F}, {int4_per_channel(), 0.1429F}};
  for (const auto& test : kCases) {
    SCOPED_TRACE(to_string(test.format));
    const auto decoded = round_trip(weights, test.format);
    for (std::size_t i = 0; i < weights.size(); ++i) {
      EXPECT_NEAR(decoded[i], weights[i], test.step * 0.51F);
    }
    EXPECT_EQ(round_trip(decoded, test.format), decoded) << "values of the format are kept exactly";
  }
}

TEST(WeightDecoder, LoadsRowsFromAnyAlignment) {
  const auto weights = random_weights();
  std::vector<std::byte> bytes(weights.size() * sizeof(float) + 1);
  std::ranges::copy(std::as_bytes(std::span(weights)), bytes.begin() + 1);
  const TensorView view{.name = "w", .shape = {kRows, kColumns}, .bytes = std::span(bytes).subspan(1)};
  const StoredWeight source{
      .values = &view, .format = float_format(ElementType::kF32), .rows = kRows, .columns = kColumns};
  std::vector<float> row(kColumns);
  load_rows(source, 1, 1, row);
  EXPECT_TRUE(std::equal(row.begin(), row.end(), weights.begin() + kColumns));
}

}  // namespace
}  // namespace diffulex_edge
