#include "backends/xnnpack/static_linear.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>

#include "quant/affine_scale.h"
#include "support/expect_error.h"
#include "support/formats.h"

namespace diffulex_edge::xnnpack {
namespace {

constexpr float kLeastNormal = std::numeric_limits<float>::min();

// An input scale of 1/4 and an output scale of 1/2.
LayerPlan plan(std::int64_t columns = 4, const WeightFormat& format = int8_per_channel()) {
  return {
      .layer = "layers.0.q_proj",
      .rows = 2,
      .columns = columns,
      .format = format,
      .activations = LayerActivations{.input = {.min = -32.0F, .max = 31.75F}, .output = {.min = 0.0F, .max = 127.5F}}};
}

TEST(StaticLinear, HasTheScalesOfItsRanges) {
  const StaticLinear layer(plan());
  EXPECT_EQ(layer.input(), (AffineScale{.scale = 0.25F, .zero_point = 0}));
  EXPECT_EQ(layer.output(), (AffineScale{.scale = 0.5F, .zero_point = -128}));
}

TEST(StaticLinear, CountsTheBiasInStepsOfTheSums) {
  const StaticLinear layer(plan());
  const std::array bias = {1.0F, -0.3F, 0.0625F};
  const std::array scales = {0.5F, 0.01F, 0.5F};
  EXPECT_EQ(layer.quantize_bias(bias, scales), (std::vector<std::int32_t>{8, -120, 0}));  // 0.5 rounds to even
  EXPECT_EQ(layer.bias_scales(scales), (std::vector<float>{0.125F, 0.25F * 0.01F, 0.125F}));
}

TEST(StaticLinear, RefusesABiasThatLeaves32Bits) {
  const StaticLinear layer(plan());
  const std::array scales = {1.0F, 1e-9F};
  EXPECT_NO_THROW(layer.quantize_bias(std::array{1.0F, 0.5F}, scales));  // 2.0e9 steps
  testing::expect_error(ErrorCode::kUnsupported, {"layers.0.q_proj", "row 1", "32 bits"},
                        [&] { layer.quantize_bias(std::array{1.0F, 0.54F}, scales); });
  // The sum of 4 products may add 4 * 255 * 128 to 2^31 - 1.
  constexpr float kStep = 0x1p-20F;
  const std::array one = {kStep * 4.0F};
  EXPECT_NO_THROW(layer.quantize_bias(std::array{kStep * (0x1p31F - 0x1p18F)}, one));
  EXPECT_THROW(layer.quantize_bias(std::array{kStep * (0x1p31F - 0x1p16F)}, one), Error);
  EXPECT_THROW(layer.quantize_bias(std::array{1.0F}, std::array{kLeastNormal}), Error);
}

TEST(StaticLinear, DeclaresOnlyNormalBiasScales) {
  LayerPlan small = plan();
  small.activations->input = {.min = 0.0F, .max = 1e-30F};
  const std::vector<float> scales = StaticLinear(small).bias_scales(std::array{kLeastNormal, 1e-3F});
  EXPECT_EQ(scales[0], kLeastNormal);
  EXPECT_TRUE(std::isnormal(scales[1]));
}

TEST(StaticLinear, RefusesScalesThatTheRuntimeRefuses) {
  const StaticLinear layer(plan());
  EXPECT_NO_THROW(layer.check(std::array{1e-30F, 511.9F}));  // 0.25 * 511.9 / 0.5 < 256
  testing::expect_error(ErrorCode::kUnsupported, {"layers.0.q_proj", "row 1", "256"},
                        [&] { layer.check(std::array{1.0F, 512.0F}); });
}

TEST(StaticLinear, GivesRowsOfZerosAFineScale) {
  const std::array int8 = {std::byte{0}, std::byte{0}, std::byte{0}, std::byte{0},
                           std::byte{0}, std::byte{0}, std::byte{1}, std::byte{0}};
  std::array scales = {1.0F, 1.0F};
  StaticLinear(plan()).refine_zero_rows(scales, int8);
  EXPECT_EQ(scales, (std::array{0.5F / 256.0F / 0.25F, 1.0F}));

  const std::array int4 = {std::byte{0}, std::byte{0}, std::byte{0x88}, std::byte{0x88}};
  scales = {1.0F, 1.0F};
  StaticLinear(plan(4, int4_per_channel())).refine_zero_rows(scales, int4);
  EXPECT_EQ(scales, (std::array{1.0F, 0.5F / 256.0F / 0.25F}));
}

TEST(StaticLinear, KeepsTheScaleOfZerosNormal) {
  LayerPlan extreme = plan(1);
  extreme.activations =
      LayerActivations{.input = {.min = -3e38F, .max = 3e38F}, .output = {.min = 0.0F, .max = 1e-37F}};
  std::array scales = {1.0F};
  StaticLinear(extreme).refine_zero_rows(scales, std::array{std::byte{0}});
  EXPECT_TRUE(std::isnormal(scales[0]));
  EXPECT_THROW(StaticLinear(extreme).check(scales), Error);
}

TEST(StaticLinear, RefusesRowsThatItCannotCompute) {
  EXPECT_NO_THROW(StaticLinear(plan(65'000)));
  testing::expect_error(ErrorCode::kUnsupported, {"layers.0.q_proj", "66000"}, [] { StaticLinear(plan(66'000)); });
  EXPECT_NO_THROW(StaticLinear(plan(66'000, int4_per_channel())));
  testing::expect_error(ErrorCode::kUnsupported, {"layers.0.q_proj", "odd"},
                        [] { StaticLinear(plan(5, int4_per_channel())); });
}

}  // namespace
}  // namespace diffulex_edge::xnnpack
