#include "diffulex_edge/weight_format.h"

#include <gtest/gtest.h>

namespace diffulex_edge {
namespace {

TEST(WeightFormatTable, GivesSizesAndNames) {
  const WeightFormat per_tensor = {.element = ElementType::kI8, .granularity = Granularity::kTensor};
  const struct {
    WeightFormat format;
    std::int64_t columns;
    std::int64_t row_bytes;
    std::int64_t scales_per_row;
    std::int64_t scale_bytes;
    bool quantized;
    std::string text;
  } kCases[] = {
      {float_format(ElementType::kF32), 3, 12, 0, 4, false, "f32"},
      {float_format(ElementType::kF16), 3, 6, 0, 4, false, "f16"},
      {float_format(ElementType::kBF16), 3, 6, 0, 4, false, "bf16"},
      {int8_per_channel(), 3, 3, 1, 4, true, "i8 per channel, f32 scales"},
      {per_tensor, 3, 3, 0, 4, true, "i8 per tensor, f32 scales"},
      {int4_per_channel(), 3, 2, 1, 4, true, "i4 per channel, f32 scales"},
      {int4_per_channel(), 0, 0, 1, 4, true, "i4 per channel, f32 scales"},
      {int4_groups(32, ElementType::kBF16), 32, 16, 1, 2, true, "i4 groups of 32, bf16 scales"},
      {int4_groups(32, ElementType::kBF16), 96, 48, 3, 2, true, "i4 groups of 32, bf16 scales"},
      {int4_groups(128, ElementType::kF32), 256, 128, 2, 4, true, "i4 groups of 128, f32 scales"},
  };
  for (const auto& row : kCases) {
    SCOPED_TRACE(row.text + ", " + std::to_string(row.columns));
    EXPECT_EQ(row.format.row_bytes(row.columns), row.row_bytes);
    EXPECT_EQ(row.format.scales_per_row(row.columns), row.scales_per_row);
    EXPECT_EQ(row.format.scale_bytes(), row.scale_bytes);
    EXPECT_EQ(row.format.is_quantized(), row.quantized);
    EXPECT_EQ(to_string(row.format), row.text);
  }
}

TEST(WeightFormatTable, ComparesEveryField) {
  const WeightFormat format = int4_groups(32, ElementType::kBF16);
  EXPECT_EQ(format, int4_groups(32, ElementType::kBF16));
  EXPECT_NE(format, int4_groups(64, ElementType::kBF16));
  EXPECT_NE(format, int4_groups(32, ElementType::kF32));
  WeightFormat swapped = format;
  swapped.nibble_order = NibbleOrder::kHighFirst;
  EXPECT_NE(format, swapped);
}

}  // namespace
}  // namespace diffulex_edge
