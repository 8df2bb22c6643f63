// Each composite operator, decomposed and evaluated, against its formula written out.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <span>

#include "checkpoint/stored_weight.h"
#include "checkpoint/tensor_source.h"
#include "diffulex_edge/model.h"
#include "graph/graph_parts.h"
#include "quant/weight_encoder.h"
#include "support/expect_error.h"
#include "support/interpreter.h"

namespace diffulex_edge {
namespace {

using testing::Array;

constexpr std::int64_t kSeq = 7;  // at run time; the bound is larger
const Dim kBound = {.value = 16, .is_sequence = true};
const std::vector<std::int64_t> kIds = {3, 1, 4, 1, 5, 9, 2};

Array random_array(std::vector<std::int64_t> shape, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  std::int64_t count = 1;
  for (const std::int64_t size : shape) {
    count *= size;
  }
  Array array{.shape = std::move(shape), .values = {}};
  for (std::int64_t i = 0; i < count; ++i) {
    array.values.push_back(normal(generator));
  }
  return array;
}

// A graph in which weights stand for arbitrary values. A sequence dimension is kSeq in the data.
class Composite : public ::testing::Test {
 protected:
  ValueId value(const std::string& name, const Shape& shape, unsigned seed) {
    std::vector<std::int64_t> sizes;
    for (const Dim& dim : shape) {
      sizes.push_back(dim.is_sequence ? kSeq : dim.value);
    }
    data_[name] = random_array(sizes, seed);
    return graph_.weight(name, shape);
  }
  Array evaluate(ValueId output) {
    graph_.set_output(output, "out");
    const Graph primitive = decompose(graph_, [](Op) { return false; });
    for (const Node& node : primitive.nodes()) {
      EXPECT_FALSE(is_composite(node.op));
    }
    EXPECT_EQ(primitive.shape(primitive.output()), graph_.shape(output));
    return testing::interpret(primitive, kIds, data_);
  }

  Graph graph_;
  std::map<std::string, Array> data_;
};

TEST_F(Composite, RmsNorm) {
  const ValueId x = value("x", {kBound, {.value = 6}}, 1);
  const ValueId w = value("w", {{.value = 6}}, 2);
  const Array result = evaluate(graph_.add(Op::kRmsNorm, {x, w}, RmsNormAttributes{.epsilon = 0.5F}));
  for (std::size_t row = 0; row < kSeq; ++row) {
    double squares = 0.0;
    for (std::size_t i = 0; i < 6; ++i) {
      squares += std::pow(data_["x"].values[row * 6 + i], 2);
    }
    for (std::size_t i = 0; i < 6; ++i) {
      const double expected = data_["x"].values[row * 6 + i] / std::sqrt(squares / 6 + 0.5) * data_["w"].values[i];
      EXPECT_NEAR(result.values[row * 6 + i], expected, 1e-12);
    }
  }
}

TEST_F(Composite, LayerNorm) {
  const ValueId x = value("x", {kBound, {.value = 6}}, 1);
  const ValueId w = value("w", {{.value = 6}}, 2);
  const ValueId b = value("b", {{.value = 6}}, 3);
  const LayerNormAttributes attributes{.epsilon = 0.5F};
  const Array plain = evaluate(graph_.add(Op::kLayerNorm, {x}, attributes));
  const Array scaled = evaluate(graph_.add(Op::kLayerNorm, {x, w}, attributes));
  const Array whole = evaluate(graph_.add(Op::kLayerNorm, {x, w, b}, attributes));
  for (std::size_t row = 0; row < kSeq; ++row) {
    const auto values = std::span(data_["x"].values).subspan(row * 6, 6);
    double mean = 0.0;
    double variance = 0.0;
    for (const double number : values) {
      mean += number / 6;
    }
    for (const double number : values) {
      variance += (number - mean) * (number - mean) / 6;
    }
    for (std::size_t i = 0; i < 6; ++i) {
      const double normal = (values[i] - mean) / std::sqrt(variance + 0.5);
      EXPECT_NEAR(plain.values[row * 6 + i], normal, 1e-12);
      EXPECT_NEAR(scaled.values[row * 6 + i], normal * data_["w"].values[i], 1e-12);
      EXPECT_NEAR(whole.values[row * 6 + i], normal * data_["w"].values[i] + data_["b"].values[i], 1e-12);
    }
  }
}

TEST_F(Composite, LinearWithBias) {
  const ValueId x = value("x", {{.value = 1}, kBound, {.value = 3}}, 1);
  const ValueId w = value("w", {{.value = 2}, {.value = 3}}, 2);
  const ValueId b = value("b", {{.value = 2}}, 3);
  const Array result = evaluate(graph_.add(Op::kLinear, {x, w, b}));
  for (std::size_t row = 0; row < kSeq; ++row) {
    for (std::size_t out = 0; out < 2; ++out) {
      double expected = data_["b"].values[out];
      for (std::size_t i = 0; i < 3; ++i) {
        expected += data_["x"].values[row * 3 + i] * data_["w"].values[out * 3 + i];
      }
      EXPECT_NEAR(result.values[row * 2 + out], expected, 1e-12);
    }
  }
}

TEST_F(Composite, RopeTurnsThePairsOfBothHalves) {
  const ValueId x = value("x", {kBound, {.value = 2}, {.value = 4}}, 1);
  const ValueId cos = value("cos", {kBound, {.value = 1}, {.value = 4}}, 2);
  const ValueId sin = value("sin", {kBound, {.value = 1}, {.value = 4}}, 3);
  const Array result = evaluate(graph_.add(Op::kRope, {x, cos, sin}));
  for (std::size_t t = 0; t < kSeq; ++t) {
    for (std::size_t h = 0; h < 2; ++h) {
      for (std::size_t i = 0; i < 4; ++i) {
        const auto at = [&](std::size_t d) { return data_["x"].values[(t * 2 + h) * 4 + d]; };
        const double expected =
            at(i) * data_["cos"].values[t * 4 + i] + at((i + 2) % 4) * data_["sin"].values[t * 4 + i];
        EXPECT_NEAR(result.values[(t * 2 + h) * 4 + i], expected, 1e-12);
      }
    }
  }
}

TEST_F(Composite, AttentionSharesKeyHeadsAmongNeighbouringQueryHeads) {
  constexpr std::size_t kHeads = 6;
  constexpr std::size_t kKvHeads = 2;
  constexpr std::size_t kDim = 4;
  const ValueId q = value("q", {kBound, {.value = kHeads}, {.value = kDim}}, 1);
  const ValueId k = value("k", {kBound, {.value = kKvHeads}, {.value = kDim}}, 2);
  const ValueId v = value("v", {kBound, {.value = kKvHeads}, {.value = kDim}}, 3);
  const ValueId mask = value("mask", {kBound, kBound}, 4);
  const Array result = evaluate(graph_.add(Op::kAttention, {q, k, v, mask}, AttentionAttributes{.scale = 0.3F}));
  for (std::size_t t = 0; t < kSeq; ++t) {
    for (std::size_t h = 0; h < kHeads; ++h) {
      const std::size_t kv = h / (kHeads / kKvHeads);
      std::vector<double> weights(kSeq);
      double total = 0.0;
      for (std::size_t s = 0; s < kSeq; ++s) {
        double score = 0.0;
        for (std::size_t d = 0; d < kDim; ++d) {
          score += data_["q"].values[(t * kHeads + h) * kDim + d] * data_["k"].values[(s * kKvHeads + kv) * kDim + d];
        }
        weights[s] = std::exp(score * static_cast<double>(0.3F) + data_["mask"].values[t * kSeq + s]);
        total += weights[s];
      }
      for (std::size_t d = 0; d < kDim; ++d) {
        double expected = 0.0;
        for (std::size_t s = 0; s < kSeq; ++s) {
          expected += weights[s] / total * data_["v"].values[(s * kKvHeads + kv) * kDim + d];
        }
        EXPECT_NEAR(result.values[(t * kHeads + h) * kDim + d], expected, 1e-12);
      }
    }
  }
}

TEST_F(Composite, SwiGlu) {
  const ValueId gate = value("g", {kBound, {.value = 3}}, 1);
  const ValueId up = value("u", {kBound, {.value = 3}}, 2);
  const Array result = evaluate(graph_.add(Op::kSwiGlu, {gate, up}));
  for (std::size_t i = 0; i < result.values.size(); ++i) {
    const double g = data_["g"].values[i];
    EXPECT_NEAR(result.values[i], g / (1 + std::exp(-g)) * data_["u"].values[i], 1e-12);
  }
}

TEST_F(Composite, LinearWithoutBias) {
  const ValueId x = value("x", {kBound, {.value = 3}}, 1);
  const ValueId w = value("w", {{.value = 2}, {.value = 3}}, 2);
  const Array result = evaluate(graph_.add(Op::kLinear, {x, w}));
  ASSERT_EQ(result.shape, (std::vector<std::int64_t>{kSeq, 2}));
  const auto& xs = data_["x"].values;
  const auto& ws = data_["w"].values;
  for (std::size_t i = 0; i < result.values.size(); ++i) {
    const double* a = &xs[i / 2 * 3];
    const double* b = &ws[i % 2 * 3];
    EXPECT_NEAR(result.values[i], a[0] * b[0] + a[1] * b[1] + a[2] * b[2], 1e-12);
  }
}

TEST_F(Composite, EmbeddingTakesTheRowsOfTheIds) {
  const ValueId table = value("table", {{.value = 10}, {.value = 3}}, 1);
  const ValueId ids = graph_.input("input_ids", DType::kI64, {{.value = 1}, kBound});
  const Array result = evaluate(graph_.add(Op::kEmbedding, {table, ids}));
  ASSERT_EQ(result.shape, (std::vector<std::int64_t>{1, kSeq, 3}));
  for (std::size_t i = 0; i < result.values.size(); ++i) {
    EXPECT_EQ(result.values[i], data_["table"].values[static_cast<std::size_t>(kIds[i / 3]) * 3 + i % 3]);
  }
}

// Without a mask, and with keys that give equal scores, every token gets the mean of the values.
TEST_F(Composite, AttentionWithoutAMaskSeesTheWholeSequence) {
  const ValueId q = value("q", {kBound, {.value = 2}, {.value = 2}}, 1);
  const ValueId k = value("k", {kBound, {.value = 2}, {.value = 2}}, 2);
  const ValueId v = value("v", {kBound, {.value = 2}, {.value = 2}}, 3);
  std::ranges::fill(data_["k"].values, 1.0);
  const Array result = evaluate(graph_.add(Op::kAttention, {q, k, v}, AttentionAttributes{.scale = 0.3F}));
  for (std::size_t channel = 0; channel < 4; ++channel) {
    double mean = 0.0;
    for (std::size_t s = 0; s < kSeq; ++s) {
      mean += data_["v"].values[s * 4 + channel] / static_cast<double>(kSeq);
    }
    for (std::size_t t = 0; t < kSeq; ++t) {
      EXPECT_NEAR(result.values[t * 4 + channel], mean, 1e-12);
    }
  }
}

TEST(WithLongestSequence, ChangesNothingButTheBound) {
  Graph graph;
  const ValueId ids = graph.input("ids", DType::kI64, {{.value = 1}, kBound});
  const ValueId table = graph.weight("table", {{.value = 10}, {.value = 4}});
  const ValueId x = graph.add(Op::kEmbedding, {table, ids}, NoAttributes{}, "embedding");
  const ValueId flat = graph.add(Op::kReshape, {x}, ShapeAttributes{.shape = {kBound, {.value = 2}, {.value = 2}}});
  graph.set_output(flat, "out");
  const Graph shorter = with_longest_sequence(graph, 5);
  ASSERT_EQ(shorter.nodes().size(), graph.nodes().size());
  const Dim bound = {.value = 5, .is_sequence = true};
  EXPECT_EQ(shorter.shape(ids), (Shape{{.value = 1}, bound}));
  EXPECT_EQ(shorter.shape(flat), (Shape{bound, {.value = 2}, {.value = 2}}));
  EXPECT_EQ(shorter.node(x).name, "embedding");
  EXPECT_EQ(shorter.output(), flat);
  EXPECT_EQ(shorter.output_name(), "out");
}

TEST(Decompose, KeepsInputsThatNothingUsesAndNames) {
  Graph graph;
  graph.input("input_ids", DType::kI64, {{.value = 1}, kBound});
  const ValueId x = graph.weight("x", {{.value = 2}, {.value = 2}});
  graph.set_output(graph.add(Op::kLinear, {x, x}, NoAttributes{}, "lm_head"), "logits");
  const Graph kept = decompose(graph, [](Op) { return true; });
  EXPECT_EQ(kept.nodes().front().name, "input_ids");
  EXPECT_EQ(kept.node(kept.output()).name, "lm_head");
  EXPECT_EQ(kept.output_name(), "logits");
  const Graph rewritten = decompose(graph, [](Op op) { return op == Op::kSwiGlu; });
  EXPECT_EQ(rewritten.node(rewritten.output()).op, Op::kMatMul);
}

TEST(BlockCausalMask, HidesLaterBlocksAndNothingElse) {
  const std::vector<std::int64_t> ids(70, 0);
  for (const std::int64_t block : {1, 2, 3, 4, 7, 32, 100}) {
    Graph graph;
    const Dim seq = {.value = 128, .is_sequence = true};
    const ValueId input = graph.input("input_ids", DType::kI64, {{.value = 1}, seq});
    const ValueId positions = graph.add(Op::kPositions, {input});
    graph.set_output(graph.add(Op::kBlockCausalMask, {positions}, BlockCausalMaskAttributes{.block_length = block}),
                     "mask");
    const Array mask = testing::interpret(decompose(graph, [](Op) { return false; }), ids, {});
    for (std::int64_t i = 0; i < 70; ++i) {
      for (std::int64_t j = 0; j < 70; ++j) {
        const bool visible = j / block <= i / block;
        EXPECT_EQ(mask.values[static_cast<std::size_t>(i * 70 + j)], visible ? 0.0 : static_cast<double>(kMaskedScore))
            << "block " << block << " at " << i << ", " << j;
      }
    }
  }
}

TEST(Decompose, KeepsWhatIsAskedForAndDropsUnusedValues) {
  Graph graph;
  const ValueId x = graph.weight("x", {{.value = 2}, {.value = 2}});
  graph.add(Op::kNegate, {x});
  graph.set_output(graph.add(Op::kSwiGlu, {x, x}), "out");
  const Graph kept = decompose(graph, [](Op op) { return op == Op::kSwiGlu; });
  ASSERT_EQ(kept.nodes().size(), 2U);
  EXPECT_EQ(kept.node(kept.output()).op, Op::kSwiGlu);
}

TEST(ShapeInference, RefusesInputsThatDoNotFit) {
  Graph graph;
  const ValueId a = graph.weight("a", {{.value = 2}, {.value = 3}});
  const ValueId b = graph.weight("b", {{.value = 4}, {.value = 5}});
  const ValueId s = graph.weight("s", {{.value = 8, .is_sequence = true}, {.value = 3}});
  const struct {
    Op op;
    std::vector<ValueId> inputs;
    Attributes attributes;
  } kCases[] = {
      {Op::kAdd, {a, b}, {}},
      {Op::kAdd, {a}, {}},
      {Op::kLinear, {a, b}, {}},
      {Op::kMatMul, {a, b}, MatMulAttributes{}},
      {Op::kMatMul, {a, a}, NoAttributes{}},
      {Op::kRmsNorm, {a, b}, RmsNormAttributes{}},
      {Op::kSwiGlu, {a, b}, {}},
      {Op::kReshape, {a}, ShapeAttributes{{{.value = 5}}}},
      {Op::kReshape, {s}, ShapeAttributes{{{.value = 24}}}},
      {Op::kTranspose, {a}, AxesAttributes{{0, 0}}},
      {Op::kTranspose, {a}, AxesAttributes{{0, 2}}},
      {Op::kSlice, {a}, SliceAttributes{.axis = 1, .begin = 1, .end = 4}},
      {Op::kSlice, {s}, SliceAttributes{.axis = 0, .begin = 0, .end = 1}},
      {Op::kConcat, {a, b}, AxesAttributes{{0}}},
      {Op::kBlockCausalMask, {a}, BlockCausalMaskAttributes{}},
  };
  for (const auto& bad : kCases) {
    testing::expect_error(ErrorCode::kInternal, {std::string(to_string(bad.op))},
                          [&] { graph.add(bad.op, bad.inputs, bad.attributes); });
  }
}

// The whole model, decomposed to primitives only, against logits that PyTorch computed when it was trained.
TEST(WholeModel, TinyLladaGivesTheReferenceLogits) {
  const Model model = load_model(DIFFULEX_EDGE_EXAMPLES_DIR "/tiny-llada");
  std::map<std::string, Array> weights;
  EncodeScratch scratch;
  for (const auto& [name, view] : model.checkpoint->tensors()) {
    const StoredWeight stored = find_stored_weight(*model.checkpoint, name);
    std::vector<float> floats(static_cast<std::size_t>(stored.rows * stored.columns));
    encode_rows(stored, float_format(ElementType::kF32), {}, 0, stored.rows, scratch,
                std::as_writable_bytes(std::span(floats)), {});
    weights[name] = {.shape = view.shape, .values = {floats.begin(), floats.end()}};
  }
  const SafetensorsFile data(DIFFULEX_EDGE_EXAMPLES_DIR "/tiny-llada/eval.safetensors");
  const auto find = [&](const std::string& name) {
    return *std::ranges::find(data.tensors(), name, &TensorView::name);
  };
  constexpr std::size_t kTokens = 128;
  std::vector<std::int64_t> ids(kTokens);
  std::memcpy(ids.data(), find("reference_input_ids").bytes.data(), kTokens * sizeof(std::int64_t));
  std::vector<float> expected(kTokens * 1024);
  std::memcpy(expected.data(), find("reference_logits").bytes.data(), expected.size() * sizeof(float));

  const Array logits = testing::interpret(decompose(model.graph, [](Op) { return false; }), ids, weights);
  ASSERT_EQ(logits.shape, (std::vector<std::int64_t>{1, kTokens, 1024}));
  double worst = 0.0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    worst = std::max(worst, std::fabs(logits.values[i] - static_cast<double>(expected[i])));
  }
  EXPECT_LT(worst, 1e-4);
}

TEST(ShapeInference, RefusesAttentionWithoutKeyHeads) {
  Graph graph;
  const Dim seq = {.value = 4, .is_sequence = true};
  const ValueId q = graph.weight("q", {seq, {.value = 2}, {.value = 4}});
  const ValueId k = graph.weight("k", {seq, {.value = 0}, {.value = 4}});
  EXPECT_THROW(graph.add(Op::kAttention, {q, k, k}, AttentionAttributes{}), Error);
}

}  // namespace
}  // namespace diffulex_edge
