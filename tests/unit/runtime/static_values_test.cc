#include "runtime/static_values.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "diffulex_edge/error.h"
#include "diffulex_edge/runtime.h"
#include "quant/affine_scale.h"
#include "quant/static_graph.h"
#include "runtime/execution_session.h"
#include "runtime/linear_layers.h"
#include "support/static_model.h"

namespace diffulex_edge {
namespace {

using testing::kCalibrationSequences;

const std::set<Op> kOperators = {Op::kEmbedding, Op::kLinear, Op::kRmsNorm, Op::kRope,
                                 Op::kAttention, Op::kSwiGlu, Op::kAdd};

class StaticValuesOf : public ::testing::TestWithParam<const char*>, protected testing::StaticModel {
 protected:
  StaticValuesOf() : StaticModel(GetParam()) {}

  QuantizationPlan plan(const TargetArithmetic& target, const QuantizationConfig& config = int8_static()) const {
    return quantize_model(model_, config, calibrated(target, config), target).plan;
  }
};

// Each is a whole number of steps away from 0, no more than the integers reach.
void expect_on_grid(std::span<const float> values, const AffineScale& scale, int bits, std::string_view what) {
  const double least = -std::ldexp(1.0, bits - 1) - scale.zero_point;
  const double greatest = std::ldexp(1.0, bits - 1) - 1.0 - scale.zero_point;
  for (const float value : values) {
    const double steps = static_cast<double>(value) / static_cast<double>(scale.scale);
    ASSERT_NEAR(steps, std::nearbyint(steps), 0.01) << what;
    ASSERT_GE(steps, least - 0.01) << what;
    ASSERT_LE(steps, greatest + 0.01) << what;
  }
}

TEST_P(StaticValuesOf, AreIntegersOfTheRangesThatCalibrationSaw) {
  for (const int bits : {8, 16}) {
    const QuantizationPlan quantized = plan(everywhere(bits));
    const StaticValues integers(model_, quantized);
    const LinearLayers layers(model_, &quantized);
    const RunControl control{.threads = 2};
    const ExecutionPlan graph_plan(model_.graph);
    ExecutionSession session(graph_plan, model_, layers, control, &integers);
    session.begin(make_batch(model_, kCalibrationSequences));
    std::set<Op> rounded;
    while (const Node* node = session.next()) {
      session.step();
      const std::vector<float>& made = session.value(session.last()).data;
      if (const auto scale = integers.find(session.last(), made)) {
        rounded.insert(node->op);
        expect_on_grid(made, *scale, bits, to_string(node->op));
        if (kOperators.contains(node->op)) {
          const auto& range = quantized.findings.graph->values[static_cast<std::size_t>(session.last())];
          EXPECT_EQ(*scale, affine_scale(with_headroom(range, bits), bits)) << to_string(node->op);
        }
      }
    }
    EXPECT_TRUE(std::ranges::includes(rounded, kOperators));
    EXPECT_TRUE(rounded.contains(Op::kReshape));  // rotary tables, which have ranges of their own
  }
}

TEST_P(StaticValuesOf, AreNearTheFloats) {
  const QuantizationPlan in_floats = quantize_model(model_, {.dtype = QuantizationDtype::INT8}).plan;
  const auto expected = forward(model_, kCalibrationSequences, &in_floats);
  double scale = 0.0;
  std::map<int, double> errors;
  for (const int bits : {8, 16}) {
    const QuantizationPlan quantized = plan(everywhere(bits));
    const auto found = forward(model_, kCalibrationSequences, &quantized);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      for (std::size_t j = 0; j < expected[i].size(); ++j) {
        scale = std::max(scale, std::abs(static_cast<double>(expected[i][j])));
        errors[bits] = std::max(errors[bits], std::abs(static_cast<double>(found[i][j] - expected[i][j])));
      }
    }
  }
  EXPECT_GT(errors[16], 0.0);
  EXPECT_LT(errors[16], 2e-3 * scale);
  EXPECT_LT(errors[8], 0.5 * scale);
  EXPECT_GT(errors[8], 20.0 * errors[16]);
}

TEST_P(StaticValuesOf, PackedModelsHaveTheSame) {
  const QuantizationPlan quantized = plan(everywhere(16));
  const auto simulated = forward(model_, kCalibrationSequences, &quantized);
  const auto packed = PackedModel(model_, &quantized).forward(kCalibrationSequences);
  const double step = static_cast<double>(
      with_headroom(quantized.findings.graph->values[static_cast<std::size_t>(model_.graph.output())], 16).max);
  for (std::size_t i = 0; i < simulated.size(); ++i) {
    for (std::size_t j = 0; j < simulated[i].size(); ++j) {
      ASSERT_NEAR(simulated[i][j], packed[i][j], 2e-3 * step);
    }
  }
}

TEST_P(StaticValuesOf, AreTheLogitsOfAQuantizedHeadAlone) {
  QuantizationConfig config = int8_static();
  const ValueId output = model_.graph.output();
  EXPECT_FALSE(StaticValues(model_, plan(everywhere(8))).find(output, {}));
  config.head_dtype = QuantizationDtype::INT8;
  const QuantizationPlan quantized = plan(everywhere(8), config);
  const auto scale = StaticValues(model_, quantized).find(output, {});
  ASSERT_TRUE(scale);
  for (const std::vector<float>& logits : forward(model_, kCalibrationSequences, &quantized)) {
    expect_on_grid(logits, *scale, 8, "logits");
  }
}

TEST_P(StaticValuesOf, NeedRanges) {
  QuantizationPlan quantized = plan(everywhere(16));
  quantized.findings.graph->scores.clear();
  EXPECT_THROW(StaticValues(model_, quantized), Error);
  quantized.findings.graph.reset();
  EXPECT_THROW(StaticValues(model_, quantized), Error);
  EXPECT_THROW(forward(model_, kCalibrationSequences, &quantized), Error);
}

TEST_P(StaticValuesOf, ArePartOfPlansThatSaySo) {
  EXPECT_FALSE(make_static_values(model_, nullptr));
  const QuantizationPlan quantized = plan({});
  EXPECT_FALSE(make_static_values(model_, &quantized));
}

INSTANTIATE_TEST_SUITE_P(Families, StaticValuesOf, ::testing::Values("sdar", "dream", "llada", "qwen2"),
                         [](const auto& instance) { return std::string(instance.param); });

}  // namespace
}  // namespace diffulex_edge
