// The shape that each operator infers, and the inputs that it refuses.
#include "graph/shape_inference.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "support/expect_error.h"

namespace diffulex_edge {
namespace {

constexpr Dim fixed(std::int64_t value) { return {.value = value}; }
constexpr Dim kSeq = {.value = 16, .is_sequence = true};

struct Case {
  Op op;
  std::vector<Shape> inputs;
  Attributes attributes;
  std::string result;  // empty: refused
};

Node node_of(const Shape& shape) { return {.op = Op::kWeight, .shape = shape}; }

ValueType infer(const Case& c) {
  std::vector<Node> nodes;
  std::vector<const Node*> pointers;
  nodes.reserve(c.inputs.size());
  for (const Shape& shape : c.inputs) {
    nodes.push_back(node_of(shape));
    pointers.push_back(&nodes.back());
  }
  return infer_type(c.op, pointers, c.attributes);
}

std::string title(const Case& c) {
  std::string text(to_string(c.op));
  for (const Shape& shape : c.inputs) {
    text += " " + to_string(shape);
  }
  return text;
}

const Shape kIds = {fixed(1), kSeq};
const Shape kQ = {kSeq, fixed(6), fixed(4)};
const Shape kKv = {kSeq, fixed(2), fixed(4)};
const Shape kTable = {kSeq, fixed(1), fixed(4)};

const Case kAccepted[] = {
    {Op::kPositions, {kIds}, {}, "[seq<=16]"},
    {Op::kPositionTable, {kIds, {fixed(16), fixed(1), fixed(4)}}, {}, "[seq<=16, 1, 4]"},
    {Op::kEmbedding, {{fixed(50), fixed(8)}, kIds}, {}, "[1, seq<=16, 8]"},
    {Op::kGather, {{fixed(50), fixed(8)}, kIds}, {}, "[1, seq<=16, 8]"},
    {Op::kEmbedding, {{fixed(50), fixed(8)}, {fixed(2), fixed(3), fixed(5)}}, {}, "[2, 3, 5, 8]"},
    {Op::kGather, {{fixed(50), fixed(8)}, {kSeq}}, {}, "[seq<=16, 8]"},
    {Op::kLinear, {{fixed(1), kSeq, fixed(3)}, {fixed(2), fixed(3)}}, {}, "[1, seq<=16, 2]"},
    {Op::kLinear, {{kSeq, fixed(3)}, {fixed(2), fixed(3)}, {fixed(2)}}, {}, "[seq<=16, 2]"},
    {Op::kRmsNorm, {kQ, {fixed(4)}}, RmsNormAttributes{}, "[seq<=16, 6, 4]"},
    {Op::kLayerNorm, {kQ}, LayerNormAttributes{}, "[seq<=16, 6, 4]"},
    {Op::kLayerNorm, {kQ, {fixed(4)}, {fixed(4)}}, LayerNormAttributes{}, "[seq<=16, 6, 4]"},
    {Op::kRope, {kQ, kTable, kTable}, {}, "[seq<=16, 6, 4]"},
    {Op::kAttention, {kQ, kKv, kKv}, AttentionAttributes{}, "[1, seq<=16, 24]"},
    {Op::kAttention, {kQ, kKv, kKv, {kSeq, kSeq}}, AttentionAttributes{}, "[1, seq<=16, 24]"},
    {Op::kAttention, {kQ, kKv, kKv, {fixed(1), fixed(1), kSeq, kSeq}}, AttentionAttributes{}, "[1, seq<=16, 24]"},
    {Op::kSwiGlu, {kQ, kQ}, {}, "[seq<=16, 6, 4]"},
    {Op::kBlockCausalMask, {{kSeq}}, BlockCausalMaskAttributes{}, "[seq<=16, seq<=16]"},
    {Op::kAdd, {kQ, {fixed(4)}}, {}, "[seq<=16, 6, 4]"},
    {Op::kSubtract, {{fixed(1), kSeq}, {kSeq, fixed(1)}}, {}, "[seq<=16, seq<=16]"},
    {Op::kMultiply, {{fixed(1)}, kQ}, {}, "[seq<=16, 6, 4]"},
    {Op::kDivide, {kQ, {fixed(6), fixed(1)}}, {}, "[seq<=16, 6, 4]"},
    {Op::kSquareRoot, {kQ}, {}, "[seq<=16, 6, 4]"},
    {Op::kTanh, {kQ}, {}, "[seq<=16, 6, 4]"},
    {Op::kExp, {kQ}, {}, "[seq<=16, 6, 4]"},
    {Op::kGelu, {kQ}, GeluAttributes{}, "[seq<=16, 6, 4]"},
    {Op::kNegate, {kQ}, {}, "[seq<=16, 6, 4]"},
    {Op::kSquare, {kQ}, {}, "[seq<=16, 6, 4]"},
    {Op::kReciprocalSquareRoot, {kQ}, {}, "[seq<=16, 6, 4]"},
    {Op::kSigmoid, {kQ}, {}, "[seq<=16, 6, 4]"},
    {Op::kSin, {kQ}, {}, "[seq<=16, 6, 4]"},
    {Op::kCos, {kQ}, {}, "[seq<=16, 6, 4]"},
    {Op::kFloor, {kQ}, {}, "[seq<=16, 6, 4]"},
    {Op::kClamp, {kQ}, ClampAttributes{}, "[seq<=16, 6, 4]"},
    {Op::kSoftmax, {{kSeq, kSeq}}, {}, "[seq<=16, seq<=16]"},
    {Op::kReduceMean, {kQ}, {}, "[seq<=16, 6, 1]"},
    {Op::kMatMul, {{kSeq, fixed(3)}, {fixed(3), fixed(2)}}, MatMulAttributes{}, "[seq<=16, 2]"},
    {Op::kMatMul,
     {{fixed(2), fixed(3), kSeq, fixed(4)}, {fixed(2), fixed(1), kSeq, fixed(4)}},
     MatMulAttributes{.transpose_b = true},
     "[2, 3, seq<=16, seq<=16]"},
    {Op::kReshape, {{fixed(1), kSeq, fixed(24)}}, ShapeAttributes{kQ}, "[seq<=16, 6, 4]"},
    {Op::kTranspose, {kQ}, AxesAttributes{{1, 0, 2}}, "[6, seq<=16, 4]"},
    {Op::kSlice, {kQ}, SliceAttributes{.axis = 2, .begin = 1, .end = 4}, "[seq<=16, 6, 3]"},
    {Op::kConcat, {kQ, {kSeq, fixed(6), fixed(3)}, kQ}, AxesAttributes{{2}}, "[seq<=16, 6, 11]"},
};

TEST(ShapeInference, GivesEveryOperatorItsShape) {
  for (const Case& c : kAccepted) {
    EXPECT_EQ(to_string(infer(c).shape), c.result) << title(c);
  }
}

// Too few and too many inputs, for every operator (a concat takes any number from 1).
TEST(ShapeInference, RefusesTheWrongNumberOfInputs) {
  for (Case c : kAccepted) {
    const Case original = c;
    const bool optional = c.op == Op::kLinear || c.op == Op::kAttention || c.op == Op::kLayerNorm;
    if (c.op != Op::kConcat) {
      c.inputs.insert(c.inputs.end(), optional ? 3 : 1, c.inputs.back());
      testing::expect_error(ErrorCode::kInternal, {std::string(to_string(c.op)), "wrong number of inputs"},
                            [&] { infer(c); });
    }
    c = original;
    c.inputs.clear();
    testing::expect_error(ErrorCode::kInternal, {std::string(to_string(c.op))}, [&] { infer(c); });
  }
}

const Case kRefused[] = {
    {Op::kInput, {}, {}, {}},
    {Op::kPositions, {{fixed(16)}}, {}, {}},
    {Op::kPositions, {{kSeq, kSeq}}, {}, {}},
    {Op::kPositionTable, {kIds, {fixed(15), fixed(4)}}, {}, {}},
    {Op::kPositionTable, {{fixed(16)}, {fixed(16), fixed(4)}}, {}, {}},
    {Op::kEmbedding, {{fixed(50)}, kIds}, {}, {}},
    {Op::kGather, {{fixed(50), fixed(8)}, {}}, {}, {}},
    {Op::kLinear, {{kSeq, fixed(3)}, {fixed(3), fixed(2)}}, {}, {}},
    {Op::kLinear, {{kSeq, fixed(3)}, {fixed(3)}}, {}, {}},
    {Op::kLinear, {{kSeq, fixed(3)}, {fixed(2), fixed(3)}, {fixed(3)}}, {}, {}},
    {Op::kLinear, {{kSeq, fixed(3)}, {fixed(2), fixed(3)}, {fixed(1), fixed(2)}}, {}, {}},
    {Op::kRmsNorm, {kQ, {fixed(6)}}, RmsNormAttributes{}, {}},
    {Op::kRmsNorm, {{}, {fixed(6)}}, RmsNormAttributes{}, {}},
    {Op::kLayerNorm, {kQ, {fixed(4)}, {fixed(6)}}, LayerNormAttributes{}, {}},
    {Op::kLayerNorm, {{}}, LayerNormAttributes{}, {}},
    {Op::kRope, {{kSeq, fixed(6), fixed(3)}, {kSeq, fixed(1), fixed(3)}, {kSeq, fixed(1), fixed(3)}}, {}, {}},
    {Op::kRope, {kQ, kTable, {kSeq, fixed(1), fixed(2)}}, {}, {}},
    {Op::kRope, {kQ, kQ, kTable}, {}, {}},
    {Op::kRope, {{kSeq, fixed(4)}, kTable, kTable}, {}, {}},
    {Op::kAttention, {kQ, {kSeq, fixed(4), fixed(4)}, {kSeq, fixed(4), fixed(4)}}, AttentionAttributes{}, {}},
    {Op::kAttention, {kQ, kKv, kQ}, AttentionAttributes{}, {}},
    {Op::kAttention, {kQ, {kSeq, fixed(2), fixed(8)}, {kSeq, fixed(2), fixed(8)}}, AttentionAttributes{}, {}},
    {Op::kAttention, {kQ, {fixed(16), fixed(2), fixed(4)}, {fixed(16), fixed(2), fixed(4)}}, AttentionAttributes{}, {}},
    {Op::kAttention, {kQ, kKv, kKv, {kSeq}}, AttentionAttributes{}, {}},
    {Op::kAttention, {kQ, kKv, kKv, {fixed(2), kSeq, kSeq}}, AttentionAttributes{}, {}},
    {Op::kSwiGlu, {kQ, kKv}, {}, {}},
    {Op::kBlockCausalMask, {kIds}, BlockCausalMaskAttributes{}, {}},
    {Op::kAdd, {{fixed(2), fixed(3)}, {fixed(2)}}, {}, {}},
    {Op::kSubtract, {{kSeq}, {fixed(16)}}, {}, {}},  // a length that varies is not one that happens to be its bound
    {Op::kMultiply, {{kSeq}, {{.value = 8, .is_sequence = true}}}, {}, {}},
    {Op::kSoftmax, {{}}, {}, {}},
    {Op::kReduceMean, {{}}, {}, {}},
    {Op::kMatMul, {{kSeq, fixed(3)}, {fixed(2), fixed(3)}}, MatMulAttributes{}, {}},
    {Op::kMatMul, {{kSeq, fixed(3)}, {fixed(3), fixed(2)}}, MatMulAttributes{.transpose_b = true}, {}},
    {Op::kMatMul, {{kSeq, fixed(3)}, {fixed(3), fixed(2)}}, NoAttributes{}, {}},
    {Op::kMatMul, {{fixed(3)}, {fixed(3), fixed(2)}}, MatMulAttributes{}, {}},
    {Op::kMatMul, {{fixed(2), kSeq, fixed(3)}, {fixed(3), fixed(3), fixed(2)}}, MatMulAttributes{}, {}},
    {Op::kReshape, {kQ}, ShapeAttributes{{kSeq, fixed(23)}}, {}},
    {Op::kReshape, {kQ}, ShapeAttributes{{fixed(16), fixed(24)}}, {}},
    {Op::kReshape, {{kSeq, kSeq}}, ShapeAttributes{{kSeq, kSeq}}, {}},
    {Op::kReshape, {kQ}, NoAttributes{}, {}},
    {Op::kTranspose, {kQ}, AxesAttributes{{1, 0}}, {}},
    {Op::kTranspose, {kQ}, AxesAttributes{{0, 1, 1}}, {}},
    {Op::kTranspose, {kQ}, AxesAttributes{{0, 1, 3}}, {}},
    {Op::kTranspose, {kQ}, AxesAttributes{{0, 1, -1}}, {}},
    {Op::kSlice, {kQ}, SliceAttributes{.axis = 0, .begin = 0, .end = 1}, {}},
    {Op::kSlice, {kQ}, SliceAttributes{.axis = 2, .begin = 2, .end = 2}, {}},
    {Op::kSlice, {kQ}, SliceAttributes{.axis = 2, .begin = -1, .end = 2}, {}},
    {Op::kSlice, {kQ}, SliceAttributes{.axis = 2, .begin = 0, .end = 5}, {}},
    {Op::kSlice, {kQ}, SliceAttributes{.axis = 3, .begin = 0, .end = 1}, {}},
    {Op::kConcat, {kQ, kKv}, AxesAttributes{{2}}, {}},
    {Op::kConcat, {kQ, kQ}, AxesAttributes{{0}}, {}},
    {Op::kConcat, {kQ, kIds}, AxesAttributes{{1}}, {}},
    {Op::kConcat, {kQ, kQ}, AxesAttributes{{1, 2}}, {}},
};

TEST(ShapeInference, NamesTheOperatorWhoseInputsDoNotFit) {
  for (const Case& c : kRefused) {
    SCOPED_TRACE(title(c));
    testing::expect_error(ErrorCode::kInternal, {"operator " + std::string(to_string(c.op))}, [&] { infer(c); });
  }
}

TEST(ShapeInference, KeepsTheTypeOfWhatItOnlyMoves) {
  Graph graph;
  const ValueId ids = graph.input("input_ids", DType::kI64, kIds);
  const auto dtype = [&](Op op, const Attributes& attributes) {
    return graph.node(graph.add(op, {ids}, attributes)).dtype;
  };
  EXPECT_EQ(dtype(Op::kReshape, ShapeAttributes{{kSeq}}), DType::kI64);
  EXPECT_EQ(dtype(Op::kTranspose, AxesAttributes{{1, 0}}), DType::kI64);
  EXPECT_EQ(dtype(Op::kPositions, NoAttributes{}), DType::kF32);
}

TEST(Graph, RefusesAConstantThatDoesNotFillItsShape) {
  Graph graph;
  testing::expect_error(ErrorCode::kInternal, {"constant", "[2, 3]"},
                        [&] { graph.constant({1.0F}, {fixed(2), fixed(3)}); });
}

}  // namespace
}  // namespace diffulex_edge
