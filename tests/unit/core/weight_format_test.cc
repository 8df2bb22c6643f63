#include "diffulex_edge/weight_format.h"
#include "support/formats.h"

#include <gtest/gtest.h>

#include <set>
#include <string_view>

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
      {palette_format(ElementType::kPalette4, 0), 6, 3, 0, 2, true, "palette4 per tensor, f16 values"},
      {palette_format(ElementType::kPalette3, 16), 8, 3, 0, 2, true, "palette3 per 16 rows, f16 values"},
      {palette_format(ElementType::kPalette1, 0), 9, 2, 0, 2, true, "palette1 per tensor, f16 values"},
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

TEST(WeightFormatTable, HasOneRowForEachFormat) {
  std::set<std::string_view> names;
  std::set<ElementType> elements;
  for (const FormatRow& row : all_formats()) {
    EXPECT_TRUE(names.insert(row.name).second) << row.name;
    EXPECT_TRUE(elements.insert(row.element).second) << row.name;
    EXPECT_EQ(&format_row(row.dtype), &row);
    EXPECT_EQ(&format_row(row.element), &row);
    const WeightFormat format = row.format(32);
    EXPECT_EQ(format.element, row.element);
    EXPECT_EQ(format.granularity == Granularity::kGroup, row.takes_groups);
    EXPECT_EQ(format.is_quantized(), row.is_quantized());
    if (row.is_quantized() && row.checkpoint_dtype) {
      EXPECT_EQ(find_checkpoint_format(*row.checkpoint_dtype), &row);
    }
    if (row.is_grid()) {
      EXPECT_EQ(traits(row.element).high - traits(row.element).low, (1 << row.bits()) - 1);
    }
  }
  EXPECT_EQ(find_checkpoint_format(DType::kF32), nullptr);
}

TEST(WeightFormatTable, CountsTables) {
  const WeightFormat whole = palette_format(ElementType::kPalette6, 0);
  EXPECT_EQ(whole.tables(24), 1);
  EXPECT_EQ(whole.table_bytes(24), 64 * 2);
  const WeightFormat grouped = palette_format(ElementType::kPalette2, 8);
  EXPECT_EQ(grouped.tables(24), 3);
  EXPECT_EQ(grouped.table_bytes(24), 3 * 4 * 2);
  EXPECT_EQ(int8_per_channel().table_bytes(24), 0);
  EXPECT_TRUE(palette_format(ElementType::kPalette3, 0).fills_bytes(8));
  EXPECT_FALSE(palette_format(ElementType::kPalette3, 0).fills_bytes(12));
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
