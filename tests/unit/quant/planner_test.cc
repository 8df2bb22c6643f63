#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "diffulex_edge/quantization.h"
#include "support/expect_error.h"
#include "support/formats.h"
#include "support/static_ranges.h"
#include "support/tiny_model.h"

namespace diffulex_edge {
namespace {

class Plan : public ::testing::Test {
 protected:
  Plan() { testing::write_sdar(folder_.path()); }
  QuantizationResult plan(const QuantizationConfig& config, const CalibrationFindings& findings = {},
                          const TargetArithmetic& target = {}) {
    return quantize_model(load_model(folder_.path()), config, findings, target);
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
  testing::expect_error(ErrorCode::kInvalidArgument, {"fp16", "int8"}, [&] {
    FP16Quantizer().quantize(load_model(folder_.path()), {.dtype = QuantizationDtype::INT8});
  });
}

TEST_F(Plan, StaticNeedsTheActivationsOfEveryQuantizedLayer) {
  QuantizationConfig config = {.dtype = QuantizationDtype::INT8, .mode = QuantizationMode::STATIC};
  CalibrationFindings findings = testing::wide_findings();
  findings.layers.erase("lm_head");
  EXPECT_NO_THROW(plan(config, findings));
  config.head_dtype = QuantizationDtype::INT8;
  testing::expect_error(ErrorCode::kInvalidArgument, {"lm_head", "mode static", "--calibration FILE"},
                        [&] { plan(config, findings); });
  config.head_dtype = {};
  findings.layers.erase("layers.1.up_proj");
  testing::expect_error(ErrorCode::kInvalidArgument, {"layers.1.up_proj", "--calibration FILE"},
                        [&] { plan(config, findings); });
  config.exclude_layers.emplace_back("layers.1.up_proj");
  EXPECT_NO_THROW(plan(config, findings));
}

TEST_F(Plan, StaticTakesInt4PerChannelOnly) {
  QuantizationConfig config = {.dtype = QuantizationDtype::INT4, .mode = QuantizationMode::STATIC};
  const CalibrationFindings findings = testing::wide_findings();
  testing::expect_error(ErrorCode::kUnsupported, {"layers.0.q_proj", "static", "groups"},
                        [&] { plan(config, findings); });
  config.group_size = 0;
  EXPECT_TRUE(layer(plan(config, findings), "layers.0.q_proj").activations.has_value());
}

TEST_F(Plan, StaticRefusesWhatIsNoRange) {
  for (const ActivationRange& range :
       {ActivationRange{.min = 1.0F, .max = -1.0F}, ActivationRange{.min = -INFINITY, .max = 1.0F},
        ActivationRange{.min = 0.0F, .max = NAN}}) {
    for (const bool input : {false, true}) {
      QuantizationConfig config = {.dtype = QuantizationDtype::INT8, .mode = QuantizationMode::STATIC};
      CalibrationFindings findings = testing::wide_findings();
      LayerActivations& layer = findings.layers.at("layers.0.o_proj");
      (input ? layer.input : layer.output) = range;
      testing::expect_error(ErrorCode::kInvalidArgument, {"layers.0.o_proj", "not a range"},
                            [&] { plan(config, findings); });
    }
  }
}

// Targets as XNNPACK's, Core ML's and QNN's backends describe them.
constexpr TargetArithmetic kXnnpack = {};
constexpr TargetArithmetic kCoreML = {
    .has_dynamic = false, .groups_are_dynamic = false, .half = TargetArithmetic::Half::kAlways};
constexpr TargetArithmetic kQnn = {.has_dynamic = false,
                                   .groups_are_dynamic = false,
                                   .has_static_groups = true,
                                   .static_everywhere = true,
                                   .static_bits = 16};

TEST_F(Plan, SaysHowALayerComputesOnItsTarget) {
  using enum QuantizationMode;
  using enum QuantizationDtype;
  struct Case {
    TargetArithmetic target;
    QuantizationDtype dtype;
    QuantizationMode mode;
    std::int64_t group_size;
    const char* arithmetic;
  };
  constexpr TargetArithmetic kHalfXnnpack = {.half = TargetArithmetic::Half::kFP16Weights};
  for (const Case& one : {Case{kXnnpack, FP32, DYNAMIC, 32, "fp32"},
                          {kXnnpack, FP16, STATIC, 32, "fp32"},
                          {kHalfXnnpack, FP16, WEIGHT_ONLY, 32, "fp16"},
                          {kHalfXnnpack, FP32, WEIGHT_ONLY, 32, "fp32"},
                          {kXnnpack, INT8, WEIGHT_ONLY, 32, "fp32"},
                          {kXnnpack, INT8, DYNAMIC, 32, "dynamic int8"},
                          {kXnnpack, INT8, STATIC, 32, "static int8"},
                          {kXnnpack, INT4, WEIGHT_ONLY, 32, "dynamic int8"},
                          {kXnnpack, INT4, DYNAMIC, 32, "dynamic int8"},
                          {kXnnpack, INT4, WEIGHT_ONLY, 0, "fp32"},
                          {kXnnpack, INT4, STATIC, 0, "static int8"},
                          {kCoreML, FP32, WEIGHT_ONLY, 32, "fp16"},
                          {kCoreML, INT8, DYNAMIC, 32, "fp16"},
                          {kCoreML, INT8, STATIC, 32, "static int8"},
                          {kCoreML, INT4, WEIGHT_ONLY, 32, "fp16"},
                          {kQnn, INT8, DYNAMIC, 32, "fp32"},
                          {kQnn, INT8, STATIC, 32, "static int16 throughout"},
                          {kQnn, INT4, STATIC, 32, "static int16 throughout"},
                          {kQnn, FP16, STATIC, 32, "fp32"}}) {
    const QuantizationConfig config = {.dtype = one.dtype, .mode = one.mode, .group_size = one.group_size};
    const auto result = plan(config, testing::wide_findings(), one.target);
    const LayerPlan& up = layer(result, "layers.0.up_proj");
    EXPECT_EQ(to_string(up.arithmetic), one.arithmetic) << to_string(one.dtype) << ", " << to_string(one.mode);
    EXPECT_EQ(up.activations.has_value(), up.arithmetic.activations == LayerArithmetic::Activations::kStatic);
    EXPECT_EQ(result.plan.is_static_everywhere(), to_string(up.arithmetic).ends_with("throughout"));
  }
}

TEST_F(Plan, LeavesTheLogitsOfAFloatHeadFloats) {
  QuantizationConfig config = {.dtype = QuantizationDtype::INT8, .mode = QuantizationMode::STATIC};
  EXPECT_EQ(to_string(layer(plan(config, {}, kQnn), "lm_head").arithmetic), "fp32");
  config.head_dtype = QuantizationDtype::INT8;
  EXPECT_EQ(to_string(layer(plan(config, {}, kQnn), "lm_head").arithmetic), "static int16 throughout");
}

// It asked for ranges that no calibration gave.
TEST_F(Plan, RefusesSingleIntegersWhereAllValuesWouldHaveToBe) {
  const QuantizationConfig config = {
      .dtype = QuantizationDtype::FP16, .mode = QuantizationMode::STATIC, .head_dtype = QuantizationDtype::INT8};
  testing::expect_error(ErrorCode::kUnsupported, {"lm_head", "mode static", "throughout", "--dtype int8"},
                        [&] { plan(config, {}, kQnn); });
  EXPECT_NO_THROW(plan(config, testing::wide_findings(), kXnnpack));
}

TEST_F(Plan, KeepsRequestFindingsAndTargetApart) {
  const QuantizationConfig config = {.dtype = QuantizationDtype::INT8, .mode = QuantizationMode::STATIC};
  const auto result = plan(config, testing::wide_findings(), kCoreML);
  EXPECT_EQ(result.plan.config.mode, QuantizationMode::STATIC);
  EXPECT_EQ(result.plan.findings.layers, testing::wide_activations());
  EXPECT_EQ(result.plan.target, kCoreML);
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

TEST_F(Plan, OverridesWinOverAnyExclusion) {
  const auto result = plan({.dtype = QuantizationDtype::INT8,
                            .exclude_layers = {"embed", "LM_HEAD"},
                            .embedding_dtype = QuantizationDtype::FP16,
                            .head_dtype = QuantizationDtype::INT8});
  EXPECT_EQ(layer(result, "embedding").format, float_format(ElementType::kF16));
  EXPECT_EQ(layer(result, "lm_head").format, int8_per_channel());
  EXPECT_FALSE(layer(result, "embedding").excluded);
}

TEST_F(Plan, AnEmptyPatternExcludesNothing) {
  const auto result = plan({.dtype = QuantizationDtype::INT8, .exclude_layers = {""}});
  EXPECT_TRUE(std::ranges::none_of(result.plan.layers, &LayerPlan::excluded));
}

TEST_F(Plan, FailsWhereNoGroupSizeDivides) {
  auto tensors = testing::qwen3_tensors(true);
  for (testing::TestTensor& tensor : tensors) {
    std::ranges::replace(tensor.shape, 96, 80);
    std::int64_t count = 4;
    for (const std::int64_t size : tensor.shape) {
      count *= size;
    }
    tensor.bytes.resize(static_cast<std::size_t>(count));
  }
  auto config = testing::transformers_config("sdar", "SDARForCausalLM");
  config["intermediate_size"] = 80;
  testing::write_model(folder_.path(), config, tensors);
  testing::expect_error(ErrorCode::kInvalidArgument, {"layers.0.down_proj", "80", "nor does a smaller group size"},
                        [&] { plan({.dtype = QuantizationDtype::INT4}); });
  EXPECT_EQ(layer(plan({.dtype = QuantizationDtype::INT4, .group_size = 0}), "layers.0.down_proj").format,
            int4_per_channel());
}

TEST_F(Plan, CountsATiedWeightOnceForEachFormat) {
  testing::write_sdar(folder_.path(), true);
  constexpr std::int64_t kTable = 50 * 64;
  const auto both = plan({});
  const auto bytes = [&](QuantizationDtype embedding, QuantizationDtype head) {
    return planned_bytes(plan({.embedding_dtype = embedding, .head_dtype = head}).plan);
  };
  EXPECT_EQ(planned_bytes(both.plan), 4 * both.parameters);
  EXPECT_EQ(bytes(QuantizationDtype::FP16, QuantizationDtype::FP16), 4 * both.parameters - 2 * kTable);
  EXPECT_EQ(bytes(QuantizationDtype::FP16, QuantizationDtype::FP32), 4 * both.parameters + 2 * kTable);
  EXPECT_DOUBLE_EQ(both.compression_ratio(), 1.0);
  EXPECT_DOUBLE_EQ(both.memory_reduction_pct(), 0.0);
}

TEST_F(Plan, EachQuantizerMakesItsOwnDtypeAlone) {
  const Model model = load_model(folder_.path());
  const FP16Quantizer fp16;
  const INT8Quantizer int8;
  const INT4Quantizer int4;
  const std::pair<const BaseQuantizer*, QuantizationDtype> kQuantizers[] = {
      {&fp16, QuantizationDtype::FP16}, {&int8, QuantizationDtype::INT8}, {&int4, QuantizationDtype::INT4}};
  for (const auto& [quantizer, own] : kQuantizers) {
    for (const QuantizationDtype dtype :
         {QuantizationDtype::FP32, QuantizationDtype::FP16, QuantizationDtype::INT8, QuantizationDtype::INT4}) {
      if (dtype == own) {
        EXPECT_EQ(layer(quantizer->quantize(model, {.dtype = dtype}), "layers.0.q_proj").dtype, dtype);
      } else {
        testing::expect_error(ErrorCode::kInvalidArgument, {std::string(to_string(own)), std::string(to_string(dtype))},
                              [&] { quantizer->quantize(model, {.dtype = dtype}); });
      }
    }
  }
}

TEST(QuantizationNames, ParseInAnyCase) {
  EXPECT_EQ(parse_quantization_dtype("INT4"), QuantizationDtype::INT4);
  EXPECT_EQ(parse_quantization_mode("Weight_Only"), QuantizationMode::WEIGHT_ONLY);
  testing::expect_error(ErrorCode::kInvalidArgument, {"int3", "fp32, fp16, int8", "int4"},
                        [] { parse_quantization_dtype("int3"); });
}

TEST_F(Plan, GivesEveryLayerItsOwnFormat) {
  QuantizationConfig config;
  for (const LayerPlan& planned : plan({}).plan.layers) {
    if (planned.role == LayerRole::kLinear || planned.role == LayerRole::kEmbedding) {
      config.layer_formats[planned.layer] = parse_layer_format("int8");
    }
  }
  config.layer_formats["layers.0.q_proj"] = parse_layer_format("int4_g64");
  config.layer_formats["layers.1.down_proj"] = parse_layer_format("int4_channel");
  config.layer_formats["lm_head"] = parse_layer_format("fp16");
  const auto result = plan(config);
  EXPECT_EQ(layer(result, "layers.0.q_proj").format, int4_groups(64, ElementType::kBF16));
  EXPECT_EQ(layer(result, "layers.1.down_proj").format, int4_per_channel());
  EXPECT_EQ(layer(result, "lm_head").format, float_format(ElementType::kF16));
  EXPECT_EQ(layer(result, "embedding").format, int8_per_channel());
  EXPECT_FALSE(layer(result, "lm_head").excluded);
  EXPECT_TRUE(result.warnings.empty());

  QuantizationConfig undivided = config;
  undivided.layer_formats["layers.0.down_proj"] = parse_layer_format("int4_g64");
  testing::expect_error(ErrorCode::kInvalidArgument, {"layers.0.down_proj", "64", "96"}, [&] { plan(undivided); });
  QuantizationConfig foreign = config;
  foreign.layer_formats["layers.9.q_proj"] = parse_layer_format("int8");
  testing::expect_error(ErrorCode::kInvalidArgument, {"layers.9.q_proj"}, [&] { plan(foreign); });
  QuantizationConfig missing = config;
  missing.layer_formats.erase("embedding");
  testing::expect_error(ErrorCode::kInvalidArgument, {"embedding"}, [&] { plan(missing); });
}

}  // namespace
}  // namespace diffulex_edge
