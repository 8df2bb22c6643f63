// Layers named as in a module: the embedding and the head are known by their roles, not by canonical names.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "diffulex_edge/quantization.h"
#include "support/formats.h"
#include "support/tiny_model.h"

namespace diffulex_edge {
namespace {

struct TensorShape {
  std::string layer;
  std::vector<std::int64_t> shape;
};

class PlanNames : public ::testing::Test {
 protected:
  PlanNames() {
    const std::vector<TensorShape> weights = {{"model.embed_tokens", {50, 64}},
                                              {"model.position_table", {16, 64}},
                                              {"model.layers.0.proj", {64, 64}},
                                              {"decoder.lm_head", {50, 64}},
                                              {"not_the_lm_head", {50, 64}}};
    std::vector<testing::TestTensor> tensors;
    for (const TensorShape& weight : weights) {
      tensors.push_back(testing::random_tensor(weight.layer + ".weight", weight.shape, 1));
      add_layer(weight);
    }
    testing::write_file(folder_ / "model.safetensors", testing::safetensors_file(tensors));
    model_.checkpoint = std::make_shared<const Checkpoint>(folder_.path());
  }

  LayerPlan plan(const std::string& layer, const QuantizationConfig& config) const {
    const QuantizationResult result = quantize_model(model_, config);
    return *std::ranges::find(result.plan.layers, layer, &LayerPlan::layer);
  }

  Model model_;

 private:
  void add_layer(const TensorShape& layer) {
    const bool is_embedding = layer.layer.starts_with("model.") && layer.layer != "model.layers.0.proj";
    const ValueId weight = model_.graph.weight(layer.layer + ".weight", static_shape(layer.shape));
    if (is_embedding) {
      const ValueId ids = model_.graph.input("ids", DType::kI64, static_shape(std::vector<std::int64_t>{1, 4}));
      model_.graph.add(Op::kEmbedding, {weight, ids}, NoAttributes{}, layer.layer);
    } else {
      const ValueId x = model_.graph.input("x", DType::kF32, static_shape(std::vector<std::int64_t>{1, 4, 64}));
      model_.graph.add(Op::kLinear, {x, weight}, NoAttributes{}, layer.layer);
    }
  }

  testing::TemporaryFolder folder_;
};

TEST_F(PlanNames, EmbeddingIsAPatternForEveryEmbedding) {
  for (const char* pattern : {"embedding", "Embedding"}) {
    const QuantizationConfig config = {.dtype = QuantizationDtype::INT8, .exclude_layers = {pattern}};
    EXPECT_TRUE(plan("model.embed_tokens", config).excluded);
    EXPECT_TRUE(plan("model.position_table", config).excluded);
    EXPECT_FALSE(plan("model.layers.0.proj", config).excluded);
    EXPECT_TRUE(quantize_model(model_, config).warnings.empty());
  }
}

TEST_F(PlanNames, OtherPatternsKnowNamesAlone) {
  const QuantizationConfig config = {.dtype = QuantizationDtype::INT8, .exclude_layers = {"embed"}};
  EXPECT_TRUE(plan("model.embed_tokens", config).excluded);
  EXPECT_FALSE(plan("model.position_table", config).excluded);
}

TEST_F(PlanNames, TheHeadsFormatIsForTheModuleOfThatName) {
  const QuantizationConfig config = {.dtype = QuantizationDtype::INT4, .head_dtype = QuantizationDtype::INT8};
  EXPECT_EQ(plan("decoder.lm_head", config).format, int8_per_channel());
  EXPECT_EQ(plan("not_the_lm_head", config).format, float_format(ElementType::kF32));  // excluded by default
  EXPECT_EQ(plan("model.layers.0.proj", config).format, int4_groups(32, ElementType::kBF16));
}

}  // namespace
}  // namespace diffulex_edge
