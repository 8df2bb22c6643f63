#include "diffulex_edge/dtype.h"

#include <gtest/gtest.h>

#include <limits>

#include "diffulex_edge/weight_format.h"
#include "support/expect_error.h"
#include "support/formats.h"

namespace diffulex_edge {
namespace {

constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();

TEST(DType, SpellingsRoundTrip) {
  for (const char* name : {"BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "U16", "I16", "F16", "BF16", "U32", "I32", "F32",
                           "U64", "I64", "F64"}) {
    ASSERT_TRUE(dtype_from_string(name).has_value()) << name;
    EXPECT_EQ(to_string(*dtype_from_string(name)), name);
  }
  EXPECT_FALSE(dtype_from_string("f32").has_value());
}

TEST(CheckedArithmetic, RefusesOverflowAndNegativeOperands) {
  EXPECT_EQ(checked_multiply(3, 4), 12);
  EXPECT_EQ(checked_multiply(kMost, 1), kMost);
  EXPECT_FALSE(checked_multiply(kMost, 2).has_value());
  EXPECT_FALSE(checked_multiply(-1, 2).has_value());
  EXPECT_EQ(checked_add(kMost - 1, 1), kMost);
  EXPECT_FALSE(checked_add(kMost, 1).has_value());
  EXPECT_FALSE(checked_add(-1, 2).has_value());
}

TEST(Shape, CountsElementsOrSaysThatTheyDoNotFit) {
  EXPECT_EQ(element_count({{.value = 3}, {.value = 4, .is_sequence = true}}), 12);
  EXPECT_EQ(element_count({}), 1);
  testing::expect_error(ErrorCode::kBadFile, {"63 bits"}, [] { element_count({{.value = kMost}, {.value = 2}}); });
}

TEST(WeightFormat, SizesFollowTheLayout) {
  EXPECT_EQ(int8_per_channel().row_bytes(7), 7);
  EXPECT_EQ(int4_per_channel().row_bytes(7), 4);
  EXPECT_EQ(int4_groups(32, ElementType::kBF16).row_bytes(64), 32);
  EXPECT_EQ(int4_groups(32, ElementType::kBF16).scales_per_row(64), 2);
  EXPECT_EQ(int4_groups(32, ElementType::kBF16).scale_bytes(), 2);
  EXPECT_EQ(float_format(ElementType::kF16).row_bytes(7), 14);
  EXPECT_EQ(float_format(ElementType::kF16).scales_per_row(7), 0);
}

}  // namespace
}  // namespace diffulex_edge
