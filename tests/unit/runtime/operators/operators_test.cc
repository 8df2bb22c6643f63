// Every operator of the graph, primitive or composite, in sequences of several lengths at once, against the tests' own
// interpreter in double precision, which knows primitives only.
#include "runtime/operators/operators.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "diffulex_edge/model.h"
#include "runtime/execution_session.h"
#include "support/expect_error.h"
#include "support/interpreter.h"
#include "support/memory_layers.h"

namespace diffulex_edge {
namespace {

using testing::Array;

const Dim kSeq = {.value = 16, .is_sequence = true};
const Dim kOne = {.value = 1};
const TokenSequences kSequences = {{3, 1, 4, 1, 5, 9, 2}, {6}, {5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6}};
constexpr std::int64_t kVocab = 10;

Dim fixed(std::int64_t size) { return {.value = size}; }

// A graph under construction: token ids, and floats that follow from them.
class Builder {
 public:
  explicit Builder(Dim seq = kSeq) : seq_(seq), ids_(graph.input("ids", DType::kI64, {kOne, seq})) {}

  ValueId ids() const { return ids_; }
  ValueId weight(std::vector<std::int64_t> sizes) {
    const std::string name = "w" + std::to_string(weights.size());
    weights[name] = testing::random_values(sizes, static_cast<unsigned>(weights.size()));
    return graph.weight(name, static_shape(sizes));
  }
  // Random, in any shape [1, seq, ...] or [seq, ...].
  ValueId values(const Shape& shape) {
    std::int64_t width = 1;
    for (const Dim& dim : shape) {
      width *= dim == seq_ ? 1 : dim.value;
    }
    return reshape(add(Op::kEmbedding, {weight({kVocab, width}), ids_}), shape);
  }
  ValueId constant(const std::vector<std::int64_t>& sizes) {
    const Array array = testing::random_values(sizes, 77);
    return graph.constant({array.values.begin(), array.values.end()}, static_shape(sizes));
  }
  ValueId reshape(ValueId value, Shape shape) {
    return add(Op::kReshape, {value}, ShapeAttributes{.shape = std::move(shape)});
  }
  ValueId add(Op op, std::vector<ValueId> inputs, Attributes attributes = {}) {
    return graph.add(op, std::move(inputs), std::move(attributes));
  }
  // What square roots and divisors need: between 1/2 and 3/2.
  ValueId positive(ValueId value) {
    const ValueId half = graph.constant({0.5F}, {kOne});
    return add(Op::kAdd, {add(Op::kSigmoid, {value}), half});
  }

  Graph graph;
  std::map<std::string, Array> weights;

 private:
  Dim seq_;
  ValueId ids_;
};

// The output for each sequence, computed for all of them at once.
std::vector<std::vector<float>> run(const Graph& graph, const std::map<std::string, Array>& weights,
                                    const TokenSequences& sequences, bool is_fixed, int threads) {
  const ExecutionPlan plan(graph);
  Model model;
  model.seq_len = kSeq.value;
  model.config.vocab_size = kVocab;
  const testing::MemoryLayers layers(graph, weights);
  const RunControl control{.threads = threads};
  ExecutionSession session(plan, model, layers, control);
  Batch batch = make_batch(model, sequences);
  if (is_fixed) {
    for (std::size_t i = 0; i < batch.offsets.size(); ++i) {
      batch.offsets[i] = static_cast<std::int64_t>(i);
    }
  }
  session.keep_buffers();
  for (int repeat = 0; repeat < 2; ++repeat) {  // the second time in buffers that hold something
    session.begin(batch);
    session.run_to_output();
  }
  std::vector<std::vector<float>> results;
  if (plan.head() >= 0) {
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      for (std::int64_t row = session.offsets()[i]; row < session.offsets()[i + 1]; ++row) {
        std::vector<float>& result = row == session.offsets()[i] ? results.emplace_back() : results.back();
        session.logits(std::span(&row, 1), [&](std::size_t, std::size_t, std::span<const float> values) {
          result.insert(result.end(), values.begin(), values.end());
        });
      }
    }
    return results;
  }
  const std::vector<std::int64_t> begins = plan.begins(graph.output(), session.batch());
  const std::vector<float>& data = session.value(graph.output()).data;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    results.emplace_back(data.begin() + begins[i],
                         plan.is_shared(graph.output()) ? data.end() : data.begin() + begins[i + 1]);
  }
  return results;
}

void expect_near(const std::vector<float>& found, const Array& expected, const std::string& what) {
  ASSERT_EQ(found.size(), expected.values.size()) << what;
  double scale = 1e-3;
  for (const double value : expected.values) {
    scale = std::abs(value) < 1e8 ? std::max(scale, std::abs(value)) : scale;  // masks stand for infinity
  }
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double tolerance = 3e-6 * std::max(scale, std::abs(expected.values[i]));
    ASSERT_NEAR(static_cast<double>(found[i]), expected.values[i], tolerance) << what << ", element " << i;
  }
}

// As it is and decomposed.
void check(Builder& builder, ValueId output, const TokenSequences& sequences = kSequences, bool is_fixed = false) {
  builder.graph.set_output(output, "out");
  const Graph primitive = decompose(builder.graph, [](Op) { return false; });
  const auto found = run(builder.graph, builder.weights, sequences, is_fixed, 3);
  const auto decomposed = run(primitive, builder.weights, sequences, is_fixed, 1);
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const Array expected = testing::interpret(primitive, sequences[i], builder.weights);
    expect_near(found[i], expected, "sequence " + std::to_string(i));
    expect_near(decomposed[i], expected, "decomposed, sequence " + std::to_string(i));
  }
}

TEST(Operators, OfOneOperand) {
  for (const Op op : {Op::kNegate, Op::kSquare, Op::kReciprocalSquareRoot, Op::kSquareRoot, Op::kSigmoid, Op::kTanh,
                      Op::kExp, Op::kSin, Op::kCos, Op::kFloor, Op::kReduceMean, Op::kSoftmax}) {
    SCOPED_TRACE(to_string(op));
    const bool is_root = op == Op::kReciprocalSquareRoot || op == Op::kSquareRoot;
    for (const Shape& shape : {Shape{kOne, kSeq, fixed(12)}, Shape{kSeq, fixed(3), fixed(4)}, Shape{fixed(5), kSeq},
                               Shape{fixed(2), kSeq, fixed(3)}}) {
      Builder b;
      const ValueId x = shape[0].value == 5
                            ? b.add(Op::kTranspose, {b.values({kSeq, fixed(5)})}, AxesAttributes{{1, 0}})
                        : shape[0].value == 2
                            ? b.add(Op::kTranspose, {b.values({kSeq, fixed(2), fixed(3)})}, AxesAttributes{{1, 0, 2}})
                            : b.values(shape);
      check(b, b.add(op, {is_root ? b.positive(x) : x}));
    }
  }
}

TEST(Operators, WithAttributes) {
  for (const bool tanh : {false, true}) {
    Builder b;
    check(b, b.add(Op::kGelu, {b.values({kOne, kSeq, fixed(12)})}, GeluAttributes{.tanh = tanh}));
  }
  Builder b;
  check(b, b.add(Op::kClamp, {b.values({kSeq, fixed(7)})}, ClampAttributes{.min = -0.5F, .max = 0.25F}));
}

TEST(Operators, OfTwoOperandsBroadcast) {
  using Make = std::function<ValueId(Builder&)>;
  const Make tokens = [](Builder& b) { return b.values({kOne, kSeq, fixed(6)}); };
  const Make flat = [](Builder& b) { return b.values({kSeq, fixed(6)}); };
  const Make column = [](Builder& b) { return b.values({kOne, kSeq, kOne}); };
  const Make row = [](Builder& b) { return b.constant({6}); };
  const Make weight = [](Builder& b) { return b.weight({6}); };
  const Make scalar = [](Builder& b) { return b.constant({1}); };
  const Make heads = [](Builder& b) { return b.values({kSeq, fixed(4), fixed(6)}); };
  const Make of_head = [](Builder& b) { return b.values({kSeq, kOne, fixed(6)}); };
  const Make of_heads = [](Builder& b) { return b.constant({4, 1}); };
  const Make turned = [](Builder& b) {
    return b.add(Op::kTranspose, {b.values({kSeq, fixed(6)})}, AxesAttributes{{1, 0}});
  };
  const Make of_turned = [](Builder& b) { return b.constant({6, 1}); };
  const Make keys = [](Builder& b) { return b.reshape(b.add(Op::kPositions, {b.ids()}), {kOne, kSeq}); };
  const Make queries = [](Builder& b) { return b.reshape(b.add(Op::kPositions, {b.ids()}), {kSeq, kOne}); };
  const Make square = [](Builder& b) {
    return b.add(Op::kMatMul, {b.values({kSeq, fixed(3)}), b.values({kSeq, fixed(3)})}, MatMulAttributes{true});
  };
  const std::vector<std::pair<Make, Make>> pairs = {
      {tokens, tokens}, {tokens, flat},      {tokens, column},  {tokens, row},  {tokens, weight},
      {tokens, scalar}, {heads, of_head},    {heads, of_heads}, {heads, row},   {turned, turned},
      {turned, keys},   {turned, of_turned}, {queries, keys},   {square, keys}, {square, queries},
      {square, square}, {square, scalar},    {queries, row},    {row, row},     {row, of_turned},
  };
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    for (const Op op : {Op::kAdd, Op::kSubtract, Op::kMultiply, Op::kDivide}) {
      for (const bool swapped : {false, true}) {
        SCOPED_TRACE("pair " + std::to_string(i) + " " + std::string(to_string(op)));
        Builder b;
        ValueId left = pairs[i].first(b);
        ValueId right = pairs[i].second(b);
        if (swapped) {
          std::swap(left, right);
        }
        check(b, b.add(op, {left, op == Op::kDivide ? b.positive(right) : right}));
      }
    }
  }
}

TEST(Operators, ThatMoveElements) {
  const auto on = [](const Shape& shape, const std::function<ValueId(Builder&, ValueId)>& make) {
    Builder b;
    const ValueId x = b.values(shape);
    check(b, make(b, x));
  };
  const Shape heads = {kSeq, fixed(4), fixed(6)};
  for (const auto& axes : {std::vector<std::int64_t>{1, 0, 2}, {2, 1, 0}, {0, 2, 1}, {1, 2, 0}}) {
    on(heads, [&](Builder& b, ValueId x) { return b.add(Op::kTranspose, {x}, AxesAttributes{axes}); });
  }
  for (const std::int64_t axis : {1, 2}) {
    on(heads, [&](Builder& b, ValueId x) {
      const ValueId part = b.add(Op::kSlice, {x}, SliceAttributes{.axis = axis, .begin = 1, .end = 3});
      return b.add(Op::kConcat, {part, x, part}, AxesAttributes{{axis}});
    });
  }
  on(heads, [](Builder& b, ValueId x) {  // behind the sequence, and before it
    const ValueId turned = b.add(Op::kTranspose, {x}, AxesAttributes{{1, 0, 2}});
    return b.add(Op::kConcat, {turned, turned}, AxesAttributes{{0}});
  });
  on(heads, [](Builder& b, ValueId x) {  // a reshape of what is needed again
    const ValueId flat = b.reshape(x, {kOne, kSeq, fixed(24)});
    return b.add(Op::kAdd, {flat, b.reshape(b.add(Op::kNegate, {x}), {kSeq, fixed(24)})});
  });
}

TEST(Operators, TablesAndPositions) {
  {
    Builder b;
    check(b, b.add(Op::kGather, {b.constant({kVocab, 5}), b.ids()}));
  }
  {
    Builder b;
    check(b, b.add(Op::kGather, {b.weight({kVocab, 5}), b.reshape(b.ids(), {kSeq})}));
  }
  {
    Builder b;
    check(b, b.add(Op::kPositionTable, {b.ids(), b.constant({16, 2, 3})}));
  }
  {
    Builder b;
    check(b, b.add(Op::kPositions, {b.ids()}));
  }
  for (const std::int64_t block : {1, 4}) {
    Builder b;
    check(b, b.add(Op::kBlockCausalMask, {b.add(Op::kPositions, {b.ids()})}, BlockCausalMaskAttributes{block}));
  }
}

TEST(Operators, MatrixProducts) {
  for (const bool transpose_b : {false, true}) {
    const MatMulAttributes attributes{.transpose_b = transpose_b};
    const auto by_head = [](Builder& b, std::int64_t width) {
      return b.add(Op::kTranspose, {b.values({kSeq, fixed(4), fixed(width)})}, AxesAttributes{{1, 0, 2}});
    };
    {
      Builder b;  // tokens by a weight
      check(b, b.add(Op::kMatMul, {b.values({kOne, kSeq, fixed(6)}), b.weight({6, 6})}, attributes));
    }
    {
      Builder b;  // for each head, [seq, seq] or [d, d]
      const ValueId x = by_head(b, 6);
      const ValueId y = transpose_b ? by_head(b, 6) : b.add(Op::kTranspose, {by_head(b, 6)}, AxesAttributes{{0, 2, 1}});
      check(b, b.add(Op::kMatMul, {x, y}, attributes));
    }
    {
      Builder b;  // one matrix for all heads
      check(b, b.add(Op::kMatMul, {by_head(b, 6), b.constant({1, 6, 6})}, attributes));
    }
  }
}

TEST(Operators, Composites) {
  {
    Builder b;
    check(b, b.add(Op::kRmsNorm, {b.values({kSeq, fixed(3), fixed(8)}), b.weight({8})}, RmsNormAttributes{1e-3F}));
  }
  for (const int operands : {0, 1, 2}) {
    Builder b;
    std::vector<ValueId> inputs = {b.values({kOne, kSeq, fixed(8)})};
    for (int i = 0; i < operands; ++i) {
      inputs.push_back(b.weight({8}));
    }
    check(b, b.add(Op::kLayerNorm, inputs, LayerNormAttributes{1e-3F}));
  }
  {
    Builder b;
    const ValueId x = b.values({kSeq, fixed(3), fixed(8)});
    check(b, b.add(Op::kRope, {x, b.values({kSeq, kOne, fixed(8)}), b.values({kSeq, kOne, fixed(8)})}));
  }
  {
    Builder b;
    check(b, b.add(Op::kSwiGlu, {b.values({kOne, kSeq, fixed(8)}), b.values({kOne, kSeq, fixed(8)})}));
  }
  for (const bool has_bias : {false, true}) {
    for (const Shape& shape : {Shape{kOne, kSeq, fixed(8)}, Shape{kSeq, fixed(3), fixed(8)}}) {
      Builder b;
      std::vector<ValueId> inputs = {b.values(shape), b.weight({5, 8})};
      if (has_bias) {
        inputs.push_back(b.weight({5}));
      }
      check(b, b.add(Op::kLinear, inputs));
    }
  }
}

std::vector<RouteAttributes> routes_of_families() {
  using Score = RouteAttributes::Score;
  return {{.experts_per_token = 3, .normalizes = true},
          {.experts_per_token = 3},
          {.experts_per_token = 1, .normalizes = true},
          {.experts_per_token = 8},
          {.experts_per_token = 2, .has_biased_weights = true, .scale = 0.5F},
          {.score = Score::kSigmoid, .experts_per_token = 4, .normalizes = true, .scale = 2.5F},
          {.score = Score::kSigmoid,
           .experts_per_token = 3,
           .groups = 4,
           .groups_per_token = 2,
           .normalizes = true,
           .scale = 2.5F}};
}

TEST(Operators, Routes) {
  for (const RouteAttributes& attributes : routes_of_families()) {
    for (const bool has_bias : {false, true}) {
      for (const Shape& shape : {Shape{kOne, kSeq, fixed(8)}, Shape{kSeq, fixed(8)}}) {
        Builder b;
        std::vector<ValueId> inputs = {b.values(shape)};
        if (has_bias) {
          inputs.push_back(b.weight({8}));
        }
        check(b, b.add(Op::kRoute, inputs, attributes));
      }
    }
  }
}

TEST(Operators, RoutesOfEqualScoresAreTheFirst) {
  for (const std::int64_t groups : {1, 4}) {
    Builder b;
    const ValueId x = b.values({kOne, kSeq, fixed(8)});
    const ValueId zero = b.add(Op::kSubtract, {x, x});
    const RouteAttributes attributes{.experts_per_token = 3, .groups = groups, .groups_per_token = groups == 1 ? 1 : 2};
    check(b, b.add(Op::kRoute, {zero}, attributes));
    const auto found = run(b.graph, b.weights, {{1, 2}}, false, 1);
    EXPECT_EQ(found[0],
              (std::vector<float>{0.125F, 0.125F, 0.125F, 0, 0, 0, 0, 0, 0.125F, 0.125F, 0.125F, 0, 0, 0, 0, 0}));
  }
}

// Gated MLPs of the tokens that chose them, some of which nobody chooses; the sum begins with nothing or something.
TEST(Operators, Experts) {
  for (const bool has_sum : {false, true}) {
    for (const std::int64_t experts : {2, 16}) {
      Builder b;
      const ValueId x = b.values({kOne, kSeq, fixed(6)});
      const ValueId logits = b.add(Op::kLinear, {x, b.weight({experts, 6})});
      const ValueId routes = b.add(Op::kRoute, {logits}, RouteAttributes{.experts_per_token = 2, .normalizes = true});
      ValueId sum = has_sum ? x : -1;
      for (std::int64_t i = 0; i < experts; ++i) {
        const ExpertAttributes expert{.expert = i};
        const ValueId chosen = b.add(Op::kDispatch, {x, routes}, expert);
        const ValueId gate = b.add(Op::kLinear, {chosen, b.weight({5, 6})});
        const ValueId up = b.add(Op::kLinear, {chosen, b.weight({5, 6})});
        const ValueId inner = b.add(Op::kSwiGlu, {gate, up});
        const ValueId y = b.add(Op::kLinear, {inner, b.weight({6, 5})});
        sum = sum < 0 ? b.add(Op::kCombine, {y, routes}, expert) : b.add(Op::kCombine, {y, routes, sum}, expert);
      }
      check(b, b.add(Op::kAdd, {x, sum}));
    }
  }
}

TEST(Operators, Attention) {
  for (const std::int64_t kv_heads : {1, 2, 4}) {
    for (const int mask : {0, 1, 2}) {  // none, block-causal, any
      SCOPED_TRACE(std::to_string(kv_heads) + " heads of keys, mask " + std::to_string(mask));
      Builder b;
      std::vector<ValueId> inputs = {b.values({kSeq, fixed(4), fixed(6)}), b.values({kSeq, fixed(kv_heads), fixed(6)}),
                                     b.values({kSeq, fixed(kv_heads), fixed(6)})};
      const ValueId positions = b.add(Op::kPositions, {b.ids()});
      if (mask == 1) {
        inputs.push_back(b.add(Op::kBlockCausalMask, {positions}, BlockCausalMaskAttributes{4}));
      }
      if (mask == 2) {
        inputs.push_back(
            b.add(Op::kSubtract, {b.reshape(positions, {kOne, kSeq}), b.reshape(positions, {kSeq, kOne})}));
      }
      check(b, b.add(Op::kAttention, inputs, AttentionAttributes{0.4F}));
    }
  }
}

// A module without a sequence: every dimension is a number, one run for each of the batch.
TEST(Operators, OfFixedShapes) {
  const Dim five = fixed(5);
  const TokenSequences runs = {{3, 1, 4, 1, 5}, {9, 2, 6, 5, 3}};
  const auto graph = [&](const std::function<ValueId(Builder&)>& make) {
    Builder b(five);
    check(b, make(b), runs, true);
  };
  const auto x = [](Builder& b) { return b.add(Op::kEmbedding, {b.weight({kVocab, 8}), b.ids()}); };  // [1, 5, 8]
  graph([&](Builder& b) { return b.add(Op::kLinear, {x(b), b.weight({3, 8}), b.weight({3})}); });
  graph([&](Builder& b) { return b.add(Op::kAdd, {x(b), b.constant({5, 8})}); });
  graph([&](Builder& b) { return b.add(Op::kAdd, {x(b), b.constant({8})}); });
  graph([&](Builder& b) { return b.add(Op::kMultiply, {x(b), b.add(Op::kReduceMean, {x(b)})}); });
  graph([&](Builder& b) { return b.add(Op::kSwiGlu, {x(b), x(b)}); });
  graph([&](Builder& b) {
    const auto split = [&](std::int64_t heads) { return b.reshape(x(b), {five, fixed(heads), fixed(8 / heads)}); };
    const ValueId q = b.add(Op::kRope, {split(2), b.constant({5, 1, 4}), b.constant({5, 1, 4})});
    return b.add(Op::kAttention, {q, split(2), split(2), b.constant({1, 5, 5})}, AttentionAttributes{0.5F});
  });
}

TEST(Operators, NameAnIdOutsideItsTable) {
  Builder b;
  b.graph.set_output(b.graph.add(Op::kEmbedding, {b.weight({kVocab - 1, 4}), b.ids()}, {}, "words"), "out");
  testing::expect_error(ErrorCode::kInvalidArgument, {"words", "id 9", "table of 9"},
                        [&] { run(b.graph, b.weights, kSequences, false, 1); });
}

}  // namespace
}  // namespace diffulex_edge
