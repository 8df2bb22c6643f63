#include <gtest/gtest.h>

#include <algorithm>

#include "diffulex_edge/quantization.h"
#include "support/expect_error.h"
#include "support/tiny_model.h"

namespace diffulex_edge {
namespace {

class Plan : public ::testing::Test {
 protected:
  Plan() { testing::write_sdar(folder_.path()); }
  QuantizationResult plan(const QuantizationConfig& config) {
    return quantize_model(load_model(folder_.path()), config);
  }
  static const LayerPlan& layer(const QuantizationResult& result, const std::string& name) {
    return *std::ranges::find(result.plan.layers, name, &LayerPlan::layer);
  }
  testing::TemporaryFolder folder_;
};

TEST_F(Plan, LeavesHeadNormAndEmbeddingInFp32) {
  const auto result = plan({.dtype = QuantizationDtype::INT8});
  for (const LayerPlan& layer : result.plan.layers) {
    const bool kept = layer.layer == "lm_head" || layer.layer == "embedding" || layer.role == LayerRole::kNorm;
    EXPECT_EQ(layer.format, kept ? float_format(ElementType::kF32) : int8_per_channel()) << layer.layer;
  }
}

TEST_F(Plan, ExcludesByBothNamesInAnyCase) {
  const auto by_canonical = plan({.dtype = QuantizationDtype::INT8, .exclude_layers = {"LAYERS.0.Q_proj"}});
  EXPECT_TRUE(layer(by_canonical, "layers.0.q_proj").excluded);
  EXPECT_FALSE(layer(by_canonical, "layers.1.q_proj").excluded);
  EXPECT_EQ(layer(by_canonical, "lm_head").dtype, QuantizationDtype::INT8);
  const auto by_tensor = plan({.dtype = QuantizationDtype::INT8, .exclude_layers = {"SELF_ATTN"}});
  EXPECT_TRUE(layer(by_tensor, "layers.1.o_proj").excluded);
  EXPECT_FALSE(layer(by_tensor, "layers.1.up_proj").excluded);
}

TEST_F(Plan, GivesEmbeddingAndHeadTheirOwnFormats) {
  const auto result = plan({.dtype = QuantizationDtype::INT4,
                            .embedding_dtype = QuantizationDtype::INT8,
                            .head_dtype = QuantizationDtype::FP16});
  EXPECT_EQ(layer(result, "embedding").format, int8_per_channel());
  EXPECT_EQ(layer(result, "lm_head").format, float_format(ElementType::kF16));
  EXPECT_EQ(layer(result, "layers.0.q_proj").format, int4_groups(32, ElementType::kBF16));
}

TEST_F(Plan, TakesASmallerGroupWithAWarningOrFails) {
  const auto result = plan({.dtype = QuantizationDtype::INT4, .group_size = 64});
  EXPECT_EQ(layer(result, "layers.0.q_proj").format.group_size, 64);
  EXPECT_EQ(layer(result, "layers.0.down_proj").format.group_size, 32);
  EXPECT_EQ(result.warnings.size(), 2U);  // both layers' down_proj
  testing::expect_error(ErrorCode::kInvalidArgument, {"layers.0.down_proj", "groups of 64", "96"},
                        [&] { plan({.dtype = QuantizationDtype::INT4, .group_size = 64, .strict_group_size = true}); });
}

TEST_F(Plan, RefusesImpossibleConfigurations) {
  testing::expect_error(ErrorCode::kInvalidArgument, {"48"},
                        [&] { plan({.dtype = QuantizationDtype::INT4, .group_size = 48}); });
  testing::expect_error(ErrorCode::kUnsupported, {"static", "calibration"},
                        [&] { plan({.dtype = QuantizationDtype::INT8, .mode = QuantizationMode::STATIC}); });
  testing::expect_error(ErrorCode::kInvalidArgument, {"fp16", "int8"}, [&] {
    FP16Quantizer().quantize(load_model(folder_.path()), {.dtype = QuantizationDtype::INT8});
  });
}

TEST_F(Plan, WarnsAboutAPatternThatMatchesNothing) {
  EXPECT_EQ(plan({.dtype = QuantizationDtype::INT8, .exclude_layers = {"typo"}}).warnings.size(), 1U);
}

TEST_F(Plan, CountsParametersAndBytes) {
  const std::int64_t per_layer = 64 * 64 * 2 + 32 * 64 * 2 + 96 * 64 * 3;
  const std::int64_t norms = 2 * (64 * 2 + 16 * 2) + 64;
  const std::int64_t tables = 2 * 50 * 64;
  const auto result = plan({.dtype = QuantizationDtype::INT8});
  EXPECT_EQ(result.parameters, 2 * per_layer + norms + tables);
  const std::int64_t channels = 2 * (64 + 32 + 32 + 64 + 96 + 96 + 64);
  const std::int64_t bytes = 2 * per_layer + 4 * channels + 4 * (norms + tables);
  EXPECT_EQ(planned_bytes(result.plan), bytes);
  EXPECT_DOUBLE_EQ(result.compression_ratio(),
                   4.0 * static_cast<double>(result.parameters) / static_cast<double>(bytes));
  EXPECT_NEAR(result.memory_reduction_pct(), 100.0 * (1.0 - 1.0 / result.compression_ratio()), 1e-9);
}

TEST(QuantizationNames, ParseInAnyCase) {
  EXPECT_EQ(parse_quantization_dtype("INT4"), QuantizationDtype::INT4);
  EXPECT_EQ(parse_quantization_mode("Weight_Only"), QuantizationMode::WEIGHT_ONLY);
  testing::expect_error(ErrorCode::kInvalidArgument, {"int3", "fp32, fp16, int8, int4"},
                        [] { parse_quantization_dtype("int3"); });
}

}  // namespace
}  // namespace diffulex_edge
