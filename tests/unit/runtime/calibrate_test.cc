#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "diffulex_edge/calibration.h"
#include "runtime/executor.h"
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
  // From the definition, over the executor's queries and keys.
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
  const QuantizationConfig config = calibrated(everywhere(16), {.observer = Observer::PERCENTILE, .percentile = 80.0});
  ASSERT_TRUE(config.graph_activations);
  const std::vector<ActivationRange>& found = config.graph_activations->values;
  ASSERT_EQ(found.size(), model_.graph.nodes().size());
  const LinearLayers layers(model_, nullptr);
  const RunControl control{.threads = 1};
  Executor executor(model_, kCalibrationSequences, layers, control);
  std::vector<bool> is_computed(found.size());
  while (executor.next() != nullptr) {
    executor.step();
    const auto value = static_cast<std::size_t>(executor.last());
    is_computed[value] = true;
    EXPECT_EQ(found[value], least_and_most(executor.value(executor.last()).data))
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
  const QuantizationConfig config = calibrated(everywhere(16));
  ActivationRange logits;
  for (const std::vector<float>& sequence : forward(model_, kCalibrationSequences)) {
    const ActivationRange range = least_and_most(sequence);
    logits = {.min = std::min(logits.min, range.min), .max = std::max(logits.max, range.max)};
  }
  const ActivationRange& found = config.graph_activations->values[static_cast<std::size_t>(model_.graph.output())];
  EXPECT_NEAR(found.min, logits.min, 1e-4);
  EXPECT_NEAR(found.max, logits.max, 1e-4);
  EXPECT_EQ(config.activations.at("lm_head").output, found);
}

TEST_P(GraphCalibration, CoversTheScoresOfPairsThatSeeEachOther) {
  const QuantizationConfig config = calibrated(everywhere(16));
  const LinearLayers layers(model_, nullptr);
  const RunControl control{.threads = 1};
  Executor executor(model_, kCalibrationSequences, layers, control);
  std::size_t attentions = 0;
  while (const Node* node = executor.next()) {
    std::optional<ActivationRange> expected;
    if (node->op == Op::kAttention) {
      expected = scores_of(executor.value(node->inputs[0]), executor.value(node->inputs[1]),
                           std::get<AttentionAttributes>(node->attributes).scale);
    }
    executor.step();
    if (expected) {
      ++attentions;
      const auto found = config.graph_activations->scores.find(executor.last());
      ASSERT_NE(found, config.graph_activations->scores.end());
      EXPECT_NEAR(found->second.min, expected->min, 1e-4);
      EXPECT_NEAR(found->second.max, expected->max, 1e-4);
    }
  }
  EXPECT_EQ(attentions, 2U);
  EXPECT_EQ(config.graph_activations->scores.size(), attentions);
}

TEST_P(GraphCalibration, HasTheObserversRangesInEightBits) {
  const CalibrationOptions options{.observer = Observer::PERCENTILE, .percentile = 80.0};
  const std::vector<ActivationRange> wide = calibrated(everywhere(16), options).graph_activations->values;
  const std::vector<ActivationRange> narrow = calibrated(everywhere(8), options).graph_activations->values;
  for (std::size_t value = 0; value < wide.size(); ++value) {
    EXPECT_GE(narrow[value].min, wide[value].min);
    EXPECT_LE(narrow[value].max, wide[value].max);
    const Node& node = model_.graph.nodes()[value];
    if (node.op == Op::kLinear && static_cast<ValueId>(value) != model_.graph.output()) {
      EXPECT_LT(narrow[value].max - narrow[value].min, 0.9F * (wide[value].max - wide[value].min)) << node.name;
    }
  }
}

TEST_P(GraphCalibration, IsLeftOutWhereLayersAloneAreStatic) {
  QuantizationConfig config = everywhere(8);
  config.static_everywhere = false;
  EXPECT_FALSE(calibrated(config).graph_activations);
}

TEST_P(GraphCalibration, IsNeededUntilThereAreRanges) {
  QuantizationConfig config = everywhere(16);
  EXPECT_TRUE(needs_calibration(model_, config));
  config.activations = calibrated(everywhere(16)).activations;
  EXPECT_TRUE(needs_calibration(model_, config));  // those of layers are not enough
  EXPECT_FALSE(needs_calibration(model_, calibrated(config)));
}

INSTANTIATE_TEST_SUITE_P(Families, GraphCalibration, ::testing::Values("sdar", "dream", "llada", "qwen2"),
                         [](const auto& instance) { return std::string(instance.param); });

}  // namespace
}  // namespace diffulex_edge
