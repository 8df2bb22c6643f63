#include <gtest/gtest.h>

#include <cmath>

#include "diffulex_edge/error.h"
#include "diffulex_edge/quantization.h"
#include "quant/affine_scale.h"
#include "support/expect_error.h"

namespace diffulex_edge {
namespace {

TEST(ActivationScale, CoversTheRangeAndRepresentsZeroExactly) {
  for (const ActivationRange range : {ActivationRange{-1.0F, 3.0F}, {-5.0F, 0.25F}, {0.5F, 2.0F}, {-2.0F, -1.0F}}) {
    for (const int bits : {8, 16}) {
      const AffineScale affine = affine_scale(range, bits);
      const double lowest = -std::ldexp(1.0, bits - 1);
      const double highest = -lowest - 1.0;
      const double scale = affine.scale;
      EXPECT_GE(affine.zero_point, lowest);
      EXPECT_LE(affine.zero_point, highest);
      EXPECT_LE((lowest - affine.zero_point) * scale, std::min(0.0F, range.min) + scale * 0.51);
      EXPECT_GE((highest - affine.zero_point) * scale, std::max(0.0F, range.max) - scale * 0.51);
    }
  }
}

TEST(ActivationScale, TakesEmptyAndTinyRanges) {
  EXPECT_EQ(affine_scale({0.0F, 0.0F}, 8).scale, 1.0F);
  EXPECT_TRUE(std::isnormal(affine_scale({0.0F, 1e-40F}, 8).scale));
}

TEST(ActivationScale, RefusesWhatIsNoRange) {
  testing::expect_error(ErrorCode::kInvalidArgument, {"range"}, [] { affine_scale({1.0F, -1.0F}, 8); });
  testing::expect_error(ErrorCode::kInvalidArgument, {"range"}, [] { affine_scale({0.0F, INFINITY}, 8); });
  testing::expect_error(ErrorCode::kInvalidArgument, {"bits"}, [] { affine_scale({0.0F, 1.0F}, 7); });
}

}  // namespace
}  // namespace diffulex_edge
