#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "diffulex_edge/calibration.h"
#include "runtime/calibrate.h"
#include "runtime/execution_session.h"
#include "runtime/linear_layers.h"
#include "support/static_model.h"

namespace diffulex_edge {
namespace {

using testing::kCalibrationSequences;

ActivationRange least_and_most(std::span<const float> values) {
  ActivationRange range;  // 0 is always in it
  for (const float value : values) {
    range.min = std::min(range.min, value);
    range.max = std::max(range.max, value);
  }
  return range;
}

class GraphCalibration : public ::testing::TestWithParam<const char*>, protected testing::StaticModel {
 protected:
  GraphCalibration() : StaticModel(GetParam()) {}
  bool sees(std::int64_t query, std::int64_t key) const { return block_ == 0 || key / block_ <= query / block_; }
  // From the definition, over the session's queries and keys.
  ActivationRange scores_of(const Activations& q, const Activations& k, float scale) const {
    const std::int64_t dim = model_.config.head_dim;
    ActivationRange range;
    std::int64_t first = 0;
    for (const auto& sequence : kCalibrationSequences) {
      const auto length = static_cast<std::int64_t>(sequence.size());
      for (std::int64_t head = 0; head < model_.config.num_heads; ++head) {
        const std::int64_t key_head = head / (model_.config.num_heads / model_.config.num_kv_heads);
        for (std::int64_t i = 0; i < length; ++i) {
          for (std::int64_t j = 0; j < length; ++j) {
            double score = 0.0;
            for (std::int64_t d = 0; d < dim; ++d) {
              score += static_cast<double>(q.row(first + i)[static_cast<std::size_t>(head * dim + d)]) *
                       static_cast<double>(k.row(first + j)[static_cast<std::size_t>(key_head * dim + d)]);
            }
            if (sees(i, j)) {
              range.min = std::min(range.min, static_cast<float>(score) * scale);
              range.max = std::max(range.max, static_cast<float>(score) * scale);
            }
          }
        }
      }
      first += length;
    }
    return range;
  }
};

TEST_P(GraphCalibration, CoversEveryValueInSixteenBits) {
  // Whatever the observer would leave out of 8 bits.
  const CalibrationFindings findings =
      calibrated(everywhere(16), int8_static(), {.observer = Observer::PERCENTILE, .percentile = 80.0});
  ASSERT_TRUE(findings.graph);
  const std::vector<ActivationRange>& found = findings.graph->values;
  ASSERT_EQ(found.size(), model_.graph.nodes().size());
  const LinearLayers layers(model_, nullptr);
  const RunControl control{.threads = 1};
  const ExecutionPlan graph_plan(model_.graph);
  ExecutionSession session(graph_plan, model_, layers, control);
  session.begin(make_batch(model_, kCalibrationSequences));
  std::vector<bool> is_computed(found.size());
  while (session.next() != nullptr) {
    session.step();
    const auto value = static_cast<std::size_t>(session.last());
    is_computed[value] = true;
    EXPECT_EQ(found[value], least_and_most(session.value(session.last()).data))
        << to_string(model_.graph.nodes()[value].op) << " " << value;
    EXPECT_LT(found[value].min, found[value].max) << value;
  }
  for (std::size_t value = 0; value < found.size(); ++value) {
    if (!is_computed[value] && static_cast<ValueId>(value) != model_.graph.output()) {
      EXPECT_EQ(found[value], ActivationRange()) << value;  // a source
    }
  }
}

TEST_P(GraphCalibration, CoversTheLogits) {
  const CalibrationFindings findings = calibrated(everywhere(16));
  ActivationRange logits;
  for (const std::vector<float>& sequence : forward(model_, kCalibrationSequences)) {
    const ActivationRange range = least_and_most(sequence);
    logits = {.min = std::min(logits.min, range.min), .max = std::max(logits.max, range.max)};
  }
  const ActivationRange& found = findings.graph->values[static_cast<std::size_t>(model_.graph.output())];
  EXPECT_NEAR(found.min, logits.min, 1e-4);
  EXPECT_NEAR(found.max, logits.max, 1e-4);
  EXPECT_EQ(findings.layers.at("lm_head").output, found);
}

TEST_P(GraphCalibration, CoversTheScoresOfPairsThatSeeEachOther) {
  const CalibrationFindings findings = calibrated(everywhere(16));
  const LinearLayers layers(model_, nullptr);
  const RunControl control{.threads = 1};
  const ExecutionPlan graph_plan(model_.graph);
  ExecutionSession session(graph_plan, model_, layers, control);
  session.begin(make_batch(model_, kCalibrationSequences));
  std::size_t attentions = 0;
  while (const Node* node = session.next()) {
    std::optional<ActivationRange> expected;
    if (node->op == Op::kAttention) {
      expected = scores_of(session.value(node->inputs[0]), session.value(node->inputs[1]),
                           std::get<AttentionAttributes>(node->attributes).scale);
    }
    session.step();
    if (expected) {
      ++attentions;
      const auto found = findings.graph->scores.find(session.last());
      ASSERT_NE(found, findings.graph->scores.end());
      EXPECT_NEAR(found->second.min, expected->min, 1e-4);
      EXPECT_NEAR(found->second.max, expected->max, 1e-4);
    }
  }
  EXPECT_EQ(attentions, 2U);
  EXPECT_EQ(findings.graph->scores.size(), attentions);
}

TEST_P(GraphCalibration, HasTheObserversRangesInEightBits) {
  const CalibrationOptions options{.observer = Observer::PERCENTILE, .percentile = 80.0};
  const std::vector<ActivationRange> wide = calibrated(everywhere(16), int8_static(), options).graph->values;
  const std::vector<ActivationRange> narrow = calibrated(everywhere(8), int8_static(), options).graph->values;
  for (std::size_t value = 0; value < wide.size(); ++value) {
    EXPECT_GE(narrow[value].min, wide[value].min);
    EXPECT_LE(narrow[value].max, wide[value].max);
    const Node& node = model_.graph.nodes()[value];
    if (node.op == Op::kLinear && static_cast<ValueId>(value) != model_.graph.output()) {
      EXPECT_LT(narrow[value].max - narrow[value].min, 0.9F * (wide[value].max - wide[value].min)) << node.name;
    }
  }
}

TEST_P(GraphCalibration, IsLeftOutWhereLayersAloneAreStatic) { EXPECT_FALSE(calibrated({}).graph); }

TEST_P(GraphCalibration, IsNeededUntilThereAreRanges) {
  const TargetArithmetic target = everywhere(16);
  EXPECT_TRUE(needs_calibration(model_, int8_static(), target));
  const CalibrationFindings found = calibrated(target);
  const CalibrationFindings of_layers = {.layers = found.layers, .graph = {}, .input_importance = {}};
  EXPECT_TRUE(needs_calibration(model_, int8_static(), target, of_layers));
  EXPECT_FALSE(needs_calibration(model_, int8_static(), {}, of_layers));
  CalibrationFindings incomplete = of_layers;
  incomplete.layers.erase("layers.0.q_proj");
  EXPECT_TRUE(needs_calibration(model_, int8_static(), {}, incomplete));
  EXPECT_FALSE(needs_calibration(model_, int8_static(), target, found));
}

// A quantized head's were told to be missing, with data, too.
TEST_P(GraphCalibration, IsNeededWhereTheHeadAloneIsStatic) {
  const QuantizationConfig config = {
      .dtype = QuantizationDtype::FP16, .mode = QuantizationMode::STATIC, .head_dtype = QuantizationDtype::INT8};
  EXPECT_TRUE(needs_calibration(model_, config));
  const CalibrationFindings found = calibrated({}, config);
  EXPECT_NO_THROW(quantize_model(model_, config, found));
  QuantizationConfig without_head = config;
  without_head.head_dtype = {};
  EXPECT_FALSE(needs_calibration(model_, without_head));
}

INSTANTIATE_TEST_SUITE_P(Families, GraphCalibration, ::testing::Values("sdar", "dream", "llada", "qwen2"),
                         [](const auto& instance) { return std::string(instance.param); });

}  // namespace
}  // namespace diffulex_edge
