// The block mask in the precision of the runtimes; decomposing again changes nothing.

#include <gtest/gtest.h>

#include <cmath>

#include "diffulex_edge/graph.h"
#include "support/interpreter.h"

namespace diffulex_edge {
namespace {

using testing::Array;

const std::vector<std::int64_t> kIds = {3, 1, 4, 1, 5};
constexpr std::int64_t kSeq = 5;
const Dim kBound = {.value = 9, .is_sequence = true};

Graph primitives(const Graph& graph) {
  return decompose(graph, [](Op) { return false; });
}

Array numbers(std::vector<std::int64_t> shape, double step) {
  Array array{.shape = std::move(shape), .values = {}};
  std::int64_t count = 1;
  for (const std::int64_t size : array.shape) {
    count *= size;
  }
  for (std::int64_t i = 0; i < count; ++i) {
    array.values.push_back(std::sin(step * static_cast<double>(i + 1)));
  }
  return array;
}

// What the runtime computes in float32 (41 * float32(1 / 41) < 1: without the half, that is wrong): block(i) = floor(i
// * r + r / 2) with r rounded to float32, for every position that a model may have. The constants are taken from the
// decomposition itself.
TEST(BlockMaskPrecision, BlockIndicesAreExactInFloat32UpToTheLongestSequence) {
  constexpr std::int64_t kLongest = std::int64_t{1} << 20U;
  for (const std::int64_t block : {2, 3, 5, 7, 31, 32, 33, 41, 47, 55, 61, 83, 100, 1000, 4095, 65'537, 1'048'575}) {
    Graph graph;
    const Dim seq = {.value = kLongest, .is_sequence = true};
    const ValueId positions = graph.add(Op::kPositions, {graph.input("input_ids", DType::kI64, {{.value = 1}, seq})});
    graph.set_output(graph.add(Op::kBlockCausalMask, {positions}, BlockCausalMaskAttributes{.block_length = block}),
                     "m");
    std::vector<float> constants;
    const Graph decomposed = primitives(graph);
    for (const Node& node : decomposed.nodes()) {
      if (node.op == Op::kConstant) {
        constants.push_back(std::get<ConstantAttributes>(node.attributes).values.at(0));
      }
    }
    ASSERT_EQ(constants.size(), 3U);  // 1 / block, 1 / (2 block), the masked score
    std::int64_t wrong = 0;
    for (std::int64_t i = 0; i < kLongest; ++i) {
      const float scaled = static_cast<float>(i) * constants[0];
      const float index = std::floor(scaled + constants[1]);
      wrong += index != static_cast<float>(i / block) ? 1 : 0;
    }
    EXPECT_EQ(wrong, 0) << "block length " << block;
    EXPECT_EQ(constants[2], kMaskedScore);
  }
}

TEST(Decompose, DecomposingTwiceChangesNothing) {
  Graph graph;
  const ValueId x = graph.weight("x", {kBound, {.value = 4}});
  const ValueId w = graph.weight("w", {{.value = 4}});
  graph.set_output(graph.add(Op::kRmsNorm, {x, w}, RmsNormAttributes{.epsilon = 0.1F}), "out");
  const Graph once = primitives(graph);
  const Graph twice = primitives(once);
  EXPECT_EQ(once.nodes().size(), twice.nodes().size());
  EXPECT_EQ(twice.output_name(), "out");
  const std::map<std::string, Array> data = {{"x", numbers({kSeq, 4}, 0.7)}, {"w", numbers({4}, 1.1)}};
  EXPECT_EQ(testing::interpret(once, kIds, data).values, testing::interpret(twice, kIds, data).values);
}

}  // namespace
}  // namespace diffulex_edge
