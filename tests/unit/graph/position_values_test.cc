#include "graph/position_values.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "diffulex_edge/model.h"
#include "models/rope.h"
#include "support/reference_decoder.h"
#include "support/temporary_folder.h"
#include "support/tiny_model.h"

namespace diffulex_edge {
namespace {

constexpr Dim fixed(std::int64_t value) { return {.value = value}; }
constexpr Dim kSeq = {.value = 16, .is_sequence = true};
using Floats = std::vector<float>;

// The two tables of a model's first rotary embedding.
std::pair<ValueId, ValueId> rotary_tables(const Graph& graph) {
  for (const Node& node : graph.nodes()) {
    if (node.op == Op::kRope) {
      return {node.inputs[1], node.inputs[2]};
    }
  }
  ADD_FAILURE() << "no rotary embedding";
  return {0, 0};
}

// cos and signed sin of position * frequency, each half of a row alike but for the sign.
void expect_tables(const Graph& graph, const PositionValues& values, std::int64_t length,
                   const std::vector<double>& frequencies, double factor) {
  const auto [cos_id, sin_id] = rotary_tables(graph);
  const Floats* cos = values.find(cos_id);
  const Floats* sin = values.find(sin_id);
  ASSERT_NE(cos, nullptr);
  ASSERT_NE(sin, nullptr);
  const std::size_t half = frequencies.size();
  ASSERT_EQ(cos->size(), static_cast<std::size_t>(length) * 2 * half);
  ASSERT_EQ(sin->size(), cos->size());
  for (std::size_t t = 0; t < static_cast<std::size_t>(length); ++t) {
    for (std::size_t i = 0; i < 2 * half; ++i) {
      const auto angle = static_cast<double>(t) * frequencies[i % half];
      const double sign = i < half ? -1.0 : 1.0;
      const double error = factor * 1.3e-7 * (1.0 + angle);  // frequency and angle are rounded to float32
      ASSERT_NEAR((*cos)[t * 2 * half + i], factor * std::cos(angle), error) << t << ", " << i;
      ASSERT_NEAR((*sin)[t * 2 * half + i], factor * sign * std::sin(angle), error) << t << ", " << i;
    }
  }
}

TEST(PositionValues, AreTheRotaryTablesOfEveryFamily) {
  for (const char* family : {"llada", "dream", "sdar", "fast_dllm_v2", "llama", "qwen2", "qwen3"}) {
    SCOPED_TRACE(family);
    const testing::TemporaryFolder folder;
    const testing::ReferenceDecoder reference = testing::reference_decoder(family);
    testing::write_model(folder.path(), reference.config, reference.tensors());
    const Model model = load_model(folder.path(), {.seq_len = 24});
    for (const std::int64_t length : {24, 1, 7, 40}) {  // the model's own and others
      expect_tables(model.graph, PositionValues(model.graph, length), length, reference.inverse_frequencies, 1.0);
    }
  }
}

TEST(PositionValues, AreMultipliedByYarnsFactor) {
  const testing::TemporaryFolder folder;
  nlohmann::json config = testing::transformers_config("qwen3", "Qwen3ForCausalLM");
  config["rope_scaling"] = {
      {"rope_type", "yarn"}, {"factor", 4.0}, {"attention_factor", 1.5}, {"original_max_position_embeddings", 16}};
  testing::write_model(folder.path(), config, testing::qwen3_tensors(true));
  const Model model = load_model(folder.path(), {.seq_len = 24});
  const Floats frequencies = rope_inverse_frequencies(model.config.rope, model.config.head_dim);
  expect_tables(model.graph, PositionValues(model.graph, 24), 24, {frequencies.begin(), frequencies.end()}, 1.5);
}

// Everything but what token ids and weights have a say in, and the mask.
TEST(PositionValues, AreNothingElse) {
  const testing::TemporaryFolder folder;
  testing::write_sdar(folder.path());
  const Model model = load_model(folder.path(), {.seq_len = 16});
  const PositionValues values(model.graph, 16);
  std::set<ValueId> others;
  for (ValueId id = 0; id < static_cast<ValueId>(model.graph.nodes().size()); ++id) {
    const Node& node = model.graph.node(id);
    bool other = node.op == Op::kInput || node.op == Op::kWeight || node.op == Op::kBlockCausalMask;
    for (const ValueId input : node.inputs) {
      other = other || (node.op != Op::kPositions && others.contains(input));
    }
    if (other) {
      others.insert(id);
    }
    EXPECT_EQ(values.find(id) == nullptr, other) << id << ": " << to_string(node.op);
  }
  EXPECT_GT(others.size(), 60U);
  EXPECT_LT(others.size(), model.graph.nodes().size());
  EXPECT_ANY_THROW(values.find(static_cast<ValueId>(model.graph.nodes().size())));
  EXPECT_ANY_THROW(values.find(-1));
}

class SmallGraph : public ::testing::Test {
 protected:
  SmallGraph() : ids_(graph_.input("ids", DType::kI64, {fixed(1), kSeq})) {
    positions_ = graph_.add(Op::kPositions, {ids_});
  }
  ValueId reshape(ValueId x, Shape shape) {
    return graph_.add(Op::kReshape, {x}, ShapeAttributes{.shape = std::move(shape)});
  }
  void expect(ValueId value, std::int64_t length, const Floats& expected) {
    const PositionValues values(graph_, length);
    ASSERT_NE(values.find(value), nullptr);
    EXPECT_EQ(*values.find(value), expected);
  }
  Graph graph_;
  ValueId ids_;
  ValueId positions_ = 0;
};

TEST_F(SmallGraph, CountsPositions) {
  expect(positions_, 4, {0, 1, 2, 3});
  expect(positions_, 1, {0});
  EXPECT_EQ(PositionValues(graph_, 4).find(ids_), nullptr);
}

TEST_F(SmallGraph, BroadcastsBothOperands) {
  const ValueId column = reshape(positions_, {kSeq, fixed(1)});
  const ValueId row = graph_.constant({10, 20}, {fixed(1), fixed(2)});
  const ValueId vector = graph_.constant({10, 20}, {fixed(2)});
  expect(graph_.add(Op::kAdd, {column, row}), 3, {10, 20, 11, 21, 12, 22});
  expect(graph_.add(Op::kAdd, {vector, column}), 3, {10, 20, 11, 21, 12, 22});
  expect(graph_.add(Op::kSubtract, {column, row}), 3, {-10, -20, -9, -19, -8, -18});
  expect(graph_.add(Op::kSubtract, {row, column}), 2, {10, 20, 9, 19});
  expect(graph_.add(Op::kMultiply, {column, row}), 3, {0, 0, 10, 20, 20, 40});
  const ValueId one = graph_.constant({5}, {fixed(1)});
  expect(graph_.add(Op::kMultiply, {positions_, one}), 4, {0, 5, 10, 15});
  // [2, 1, 2] and [seq, 1]: both are stretched, in different dimensions.
  const ValueId cube = graph_.constant({1, 2, 3, 4}, {fixed(2), fixed(1), fixed(2)});
  expect(graph_.add(Op::kAdd, {cube, column}), 2, {1, 2, 2, 3, 3, 4, 4, 5});
}

TEST_F(SmallGraph, ConcatenatesAlongEachAxis) {
  const ValueId column = reshape(positions_, {kSeq, fixed(1)});
  const ValueId pair = graph_.add(Op::kAdd, {column, graph_.constant({10, 20}, {fixed(1), fixed(2)})});
  const ValueId wide = graph_.add(Op::kConcat, {column, pair, column}, AxesAttributes{.axes = {1}});
  expect(wide, 2, {0, 10, 20, 0, 1, 11, 21, 1});
  const ValueId a = graph_.constant({1, 2}, {fixed(1), fixed(2)});
  const ValueId b = graph_.constant({3, 4, 5, 6}, {fixed(2), fixed(2)});
  expect(graph_.add(Op::kConcat, {a, b}, AxesAttributes{.axes = {0}}), 2, {1, 2, 3, 4, 5, 6});
  const ValueId deep = reshape(pair, {kSeq, fixed(2), fixed(1)});
  const ValueId stacked = graph_.add(Op::kConcat, {deep, deep}, AxesAttributes{.axes = {2}});
  expect(stacked, 2, {10, 10, 20, 20, 11, 11, 21, 21});
}

TEST_F(SmallGraph, NegatesAndTurns) {
  const ValueId angles = graph_.add(Op::kMultiply, {positions_, graph_.constant({1000}, {fixed(1)})});
  expect(graph_.add(Op::kNegate, {positions_}), 3, {-0.0F, -1, -2});
  expect(graph_.add(Op::kSin, {angles}), 2, {0, static_cast<float>(std::sin(1000.0))});
  expect(graph_.add(Op::kCos, {angles}), 2, {1, static_cast<float>(std::cos(1000.0))});
}

TEST_F(SmallGraph, CutsTablesToTheLength) {
  Floats rows;
  for (int i = 0; i < 32; ++i) {
    rows.push_back(static_cast<float>(i));
  }
  const ValueId table = graph_.add(Op::kPositionTable, {ids_, graph_.constant(rows, {fixed(16), fixed(2)})});
  expect(table, 3, {0, 1, 2, 3, 4, 5});
  expect(graph_.add(Op::kTranspose, {table}, AxesAttributes{.axes = {1, 0}}), 3, {0, 2, 4, 1, 3, 5});
  const ValueId cube = reshape(table, {fixed(1), kSeq, fixed(2)});
  expect(graph_.add(Op::kTranspose, {cube}, AxesAttributes{.axes = {2, 0, 1}}), 2, {0, 2, 1, 3});
  expect(graph_.add(Op::kSlice, {table}, SliceAttributes{.axis = 1, .begin = 1, .end = 2}), 3, {1, 3, 5});
  expect(graph_.add(Op::kSquare, {table}), 2, {0, 1, 4, 9});
  expect(graph_.add(Op::kDivide, {table, graph_.constant({2}, {fixed(1)})}), 1, {0, 0.5F});
}

TEST_F(SmallGraph, KnowsConstantsAtAnyLength) {
  const ValueId constant = graph_.constant({7, 8}, {fixed(2)});
  const ValueId sum = graph_.add(Op::kAdd, {constant, constant});
  expect(sum, 1, {14, 16});
  expect(sum, 5, {14, 16});
}

TEST_F(SmallGraph, DoesNotFindWhatWeightsHaveASayIn) {
  const ValueId weight = graph_.weight("w", {fixed(1)});
  const ValueId sum = graph_.add(Op::kAdd, {positions_, weight});
  const ValueId after = graph_.add(Op::kNegate, {sum});
  const ValueId floor = graph_.add(Op::kFloor, {positions_});  // no rotary table needs it
  const ValueId mask = graph_.add(Op::kBlockCausalMask, {positions_}, BlockCausalMaskAttributes{.block_length = 4});
  const PositionValues values(graph_, 8);
  for (const ValueId other : {ids_, weight, sum, after, floor, mask}) {
    EXPECT_EQ(values.find(other), nullptr) << to_string(graph_.node(other).op);
  }
  EXPECT_NE(values.find(positions_), nullptr);
}

TEST(PositionValues, CanBeCutUnlessPositionsAreMixed) {
  Graph graph;
  const ValueId x = graph.input("x", DType::kF32, {kSeq});
  const ValueId table = graph.constant(Floats(64, 1.0F), {fixed(4), kSeq});
  const auto reshaped = [&](ValueId value, Shape shape) {
    return graph.add(Op::kReshape, {value}, ShapeAttributes{.shape = std::move(shape)});
  };
  const ValueId apart = reshaped(table, {fixed(2), fixed(2), kSeq});
  const ValueId turned = graph.add(Op::kTranspose, {apart}, AxesAttributes{.axes = {2, 0, 1}});
  const ValueId mixed = reshaped(table, {kSeq, fixed(4)});
  const ValueId sum = graph.add(Op::kAdd, {mixed, mixed});
  const ValueId column = reshaped(graph.add(Op::kPositions, {x}), {kSeq, fixed(1)});
  graph.set_output(sum, "y");
  const PositionValues values(graph, 16);
  for (const ValueId value : {table, apart, turned, column}) {
    EXPECT_TRUE(values.can_be_cut(value)) << value;
  }
  for (const ValueId value : {x, mixed, sum}) {
    EXPECT_FALSE(values.can_be_cut(value)) << value;
  }
  EXPECT_NE(values.find(sum), nullptr);
}

}  // namespace
}  // namespace diffulex_edge
