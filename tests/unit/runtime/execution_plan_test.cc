#include "runtime/execution_plan.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "runtime/operators/operators.h"
#include "support/static_model.h"

namespace diffulex_edge {
namespace {

using Layout = ExecutionPlan::Layout;

class PlanOf : public ::testing::TestWithParam<const char*>, protected testing::StaticModel {
 protected:
  PlanOf() : StaticModel(GetParam()) {}
};

TEST_P(PlanOf, StepsThroughTheModelUpToItsHead) {
  const Graph& graph = model_.graph;
  const ExecutionPlan plan(graph);
  EXPECT_EQ(plan.head(), graph.output());
  std::set<ValueId> made;
  for (const ExecutionPlan::Step& step : plan.steps()) {
    const Node& node = graph.node(step.value);
    EXPECT_NE(node.op, Op::kBlockCausalMask);  // attention knows it by its block length
    for (const ValueId input : node.inputs) {
      const Op op = graph.node(input).op;
      EXPECT_TRUE(made.contains(input) || op == Op::kInput || op == Op::kWeight || op == Op::kConstant ||
                  op == Op::kBlockCausalMask);
    }
    made.insert(step.value);
    if (node.op == Op::kAttention) {
      EXPECT_EQ(step.kernel.name, block_ == 0 ? "full attention" : "block-causal attention");
    }
    if (node.op == Op::kAdd && node.shape.size() == 3) {
      EXPECT_EQ(step.kernel.name, "add rows");  // a residual
    }
  }
  EXPECT_TRUE(plan.loaded_weights().empty());
}

// Whoever reads a value finds it: no other one takes its buffer between the step that makes it and its last use.
TEST_P(PlanOf, SharesBuffersOfDeadValuesOnly) {
  for (const Graph& graph : {model_.graph, decompose(model_.graph, [](Op) { return false; })}) {
    const ExecutionPlan plan(graph);
    std::map<int, ValueId> owner;  // of each buffer
    for (const ExecutionPlan::Step& step : plan.steps()) {
      for (const ValueId input : graph.node(step.value).inputs) {
        if (plan.buffer(input) >= 0) {
          EXPECT_EQ(owner.at(plan.buffer(input)), input);
        }
      }
      const auto last = owner.find(plan.buffer(step.value));
      if (step.taken_input >= 0) {
        EXPECT_EQ(last->second, graph.node(step.value).inputs[0]);
      } else if (last != owner.end()) {
        for (const ValueId input : graph.node(step.value).inputs) {
          EXPECT_NE(last->second, input);
        }
      }
      owner[plan.buffer(step.value)] = step.value;
    }
    EXPECT_LT(plan.buffers(), 12U);  // of more than a hundred values
    EXPECT_GT(plan.steps().size(), 30U);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, PlanOf, ::testing::Values("llada", "dream", "sdar", "qwen3"),
                         [](const auto& family) { return std::string(family.param); });

TEST(ExecutionPlan, SaysHowValuesLie) {
  Graph graph;
  const Dim seq{.value = 16, .is_sequence = true};
  const ValueId ids = graph.input("ids", DType::kI64, {{.value = 1}, seq});
  const ValueId table = graph.constant(std::vector<float>(40), static_shape(std::vector<std::int64_t>{10, 4}));
  const ValueId x = graph.add(Op::kGather, {table, ids});  // [1, seq, 4]
  const ValueId turned = graph.add(Op::kTranspose, {x}, AxesAttributes{{2, 0, 1}});
  const ValueId square = graph.add(Op::kSquare, {table});
  graph.set_output(turned, "out");
  const ExecutionPlan plan(graph);
  EXPECT_EQ(plan.layout(x), Layout::kTokens);
  EXPECT_EQ(plan.layout(turned), Layout::kSequences);
  EXPECT_EQ(plan.layout(square), Layout::kShared);
  EXPECT_EQ(plan.head(), -1);
  Batch batch;
  batch.offsets = {0, 3, 5};
  Activations value;
  plan.set_size(x, batch, value);
  EXPECT_EQ(value.rows, 5);
  EXPECT_EQ(value.width, 4);
  plan.set_size(square, batch, value);
  EXPECT_EQ(value.rows, 1);
  EXPECT_EQ(value.width, 40);
  EXPECT_EQ(plan.begins(turned, batch), (std::vector<std::int64_t>{0, 12, 20}));
}

}  // namespace
}  // namespace diffulex_edge
