// Graphs of torch modules: operators, shapes and inputs that no decoder has.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "backends/qnn/lowering.h"
#include "support/expect_error.h"
#include "support/lowered_onnx.h"

namespace diffulex_edge::qnn {
namespace {

using testing::expect_error;
using testing::Lowered;
using testing::OnnxNode;
using testing::OnnxValue;

constexpr float kLeast = std::numeric_limits<float>::lowest();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
// How a module is lowered: in mode static, every value is an integer of 8 bits, which have no headroom.
struct Lowering {
  bool is_static = false;
  LoweringSettings settings = {};
};
const Lowering kStatic = {.is_static = true};
const Lowering kHalves = {.settings = {.arithmetic = OnnxDtype::kFloat16}};

Shape fixed(const Sizes& sizes) {
  Shape shape;
  for (const std::int64_t size : sizes) {
    shape.push_back({.value = size});
  }
  return shape;
}

// A graph under construction, with its weights: all of them ones.
struct Module {
  Graph graph;
  std::vector<TensorView> tensors;
  std::vector<std::unique_ptr<std::vector<float>>> memory;
  GraphActivations ranges;

  ValueId input(const Sizes& sizes, const std::string& name = "x", DType dtype = DType::kF32) {
    return graph.input(name, dtype, fixed(sizes));
  }
  ValueId weight(const std::string& name, const Sizes& sizes) {
    const Shape shape = fixed(sizes);
    memory.push_back(std::make_unique<std::vector<float>>(static_cast<std::size_t>(element_count(shape)), 1.0F));
    tensors.push_back(
        {.name = name, .dtype = DType::kF32, .shape = sizes, .bytes = std::as_bytes(std::span(*memory.back()))});
    return graph.weight(name, shape);
  }
  ValueId constant(std::vector<float> values, const Sizes& sizes) {
    return graph.constant(std::move(values), fixed(sizes));
  }
  Lowered lower(ValueId output, const Lowering& how = {}, const std::string& name = "y") {
    graph.set_output(output, name);
    Model model;
    model.seq_len = 1;
    model.graph = graph;
    model.checkpoint = std::make_shared<const Checkpoint>(tensors);
    if (!how.is_static) {
      return {std::move(model), {}, how.settings};
    }
    ranges.values.resize(graph.nodes().size(), {.min = -2.0F, .max = 4.0F});
    return {std::move(model),
            {.dtype = QuantizationDtype::INT8, .mode = QuantizationMode::STATIC},
            how.settings,
            {.layers = {}, .graph = ranges, .input_importance = {}},
            8};
  }
  void set_range(ValueId value, const ActivationRange& range) {
    ranges.values.resize(graph.nodes().size(), {.min = -2.0F, .max = 4.0F});
    ranges.values.at(static_cast<std::size_t>(value)) = range;
  }
};

TEST(QnnModules, HaveAnOperatorForEachOfTheGraphs) {
  const std::vector<std::pair<Op, std::vector<std::string>>> cases = {{Op::kAdd, {"Add"}},
                                                                      {Op::kSubtract, {"Sub"}},
                                                                      {Op::kMultiply, {"Mul"}},
                                                                      {Op::kDivide, {"Div"}},
                                                                      {Op::kNegate, {"Neg"}},
                                                                      {Op::kSquare, {"Mul"}},
                                                                      {Op::kSquareRoot, {"Sqrt"}},
                                                                      {Op::kSigmoid, {"Sigmoid"}},
                                                                      {Op::kReciprocalSquareRoot, {"Sqrt", "Div"}},
                                                                      {Op::kTanh, {"Tanh"}},
                                                                      {Op::kExp, {"Exp"}},
                                                                      {Op::kGelu, {"Gelu"}},
                                                                      {Op::kSin, {"Sin"}},
                                                                      {Op::kCos, {"Cos"}},
                                                                      {Op::kFloor, {"Floor"}},
                                                                      {Op::kClamp, {"Clip"}},
                                                                      {Op::kSoftmax, {"Softmax"}},
                                                                      {Op::kReduceMean, {"ReduceMean"}},
                                                                      {Op::kSwiGlu, {"Sigmoid", "Mul", "Mul"}}};
  for (const auto& [op, expected] : cases) {
    SCOPED_TRACE(std::string(to_string(op)));
    Module module;
    std::vector<ValueId> inputs = {module.input({2, 3, 4})};
    if (op <= Op::kDivide) {
      inputs.push_back(module.input({2, 3, 4}, "z"));
    }
    Attributes attributes;
    if (op == Op::kGelu) {
      attributes = GeluAttributes{.tanh = true};
    } else if (op == Op::kClamp) {
      attributes = ClampAttributes{.min = 0.0F, .max = kInfinity};
    }
    const Lowered lowered = module.lower(module.graph.add(op, inputs, attributes));
    std::vector<std::string> found;
    for (const OnnxNode& node : lowered.onnx.nodes) {
      found.push_back(node.op);
    }
    std::vector<std::string> whole = expected;
    whole.emplace_back("Reshape");
    EXPECT_EQ(found, whole);
    const std::int64_t last = op == Op::kReduceMean ? 1 : 4;
    EXPECT_EQ(lowered.onnx.outputs,
              (decltype(lowered.onnx.outputs){{"y", {.dtype = testing::kOnnxFloat, .sizes = {2, 3, last}}}}));
    if (op == Op::kGelu) {
      EXPECT_EQ(lowered.onnx.nodes[0].attributes.at("approximate").text, "tanh");
    }
    if (op == Op::kClamp) {
      EXPECT_EQ(lowered.onnx.nodes[0].inputs.size(), 2U);  // no upper limit
    }
  }
}

TEST(QnnModules, TakeFloatsAndIdsUnderTheirNames) {
  for (const Lowering& settings : {Lowering{}, kHalves, kStatic}) {
    Module module;
    const ValueId ids = module.input({2, 3}, "ids", DType::kI64);
    const ValueId table = module.input({5, 4}, "table");
    const ValueId rows = module.graph.add(Op::kGather, {table, ids});
    const Lowered lowered = module.lower(rows, settings);
    EXPECT_EQ(lowered.onnx.inputs,
              (decltype(lowered.onnx.inputs){{"ids", {.dtype = testing::kOnnxInt32, .sizes = {2, 3}}},
                                             {"table", {.dtype = testing::kOnnxFloat, .sizes = {5, 4}}}}));
    EXPECT_EQ(lowered.onnx.outputs,
              (decltype(lowered.onnx.outputs){{"y", {.dtype = testing::kOnnxFloat, .sizes = {2, 3, 4}}}}));
  }
}

TEST(QnnModules, QuantizeTheirInputsInModeStatic) {
  Module module;
  const ValueId x = module.input({2, 4});
  const ValueId y = module.graph.add(Op::kTanh, {x});
  module.set_range(x, {.min = -3.0F, .max = 5.0F});
  const Lowered lowered = module.lower(y, kStatic);
  EXPECT_EQ(lowered.encoding_after("x"), choose_encoding({.min = -3.0F, .max = 5.0F}, 8));
  EXPECT_EQ(lowered.encoding_after(lowered.onnx.of_op("Tanh").at(0)->output),
            choose_encoding({.min = -1.0F, .max = 1.0F}, 8));
}

// Only a decoder's residual stream and heads have other sizes than their own.
TEST(QnnModules, KeepTheSizesOfValuesWithoutASequence) {
  Module module;
  const ValueId x = module.input({1, 6, 4});
  const ValueId turned = module.graph.add(Op::kTranspose, {x}, AxesAttributes{.axes = {1, 0, 2}});
  const ValueId part = module.graph.add(Op::kSlice, {turned}, SliceAttributes{.axis = 0, .begin = 1, .end = 3});
  const ValueId both = module.graph.add(Op::kConcat, {part, part}, AxesAttributes{.axes = {1}});
  const Lowered lowered = module.lower(both);
  const auto sizes_of = [&](const char* op) {
    return lowered.onnx.values.at(lowered.onnx.of_op(op).at(0)->output).sizes;
  };
  EXPECT_EQ(sizes_of("Transpose"), (Sizes{6, 1, 4}));
  EXPECT_EQ(sizes_of("Slice"), (Sizes{2, 1, 4}));
  EXPECT_EQ(sizes_of("Concat"), (Sizes{2, 2, 4}));
}

TEST(QnnModules, MoveAxesOfValuesWithASequenceInTheirOwnSizes) {
  Module module;
  const Dim seq{.value = 6, .is_sequence = true};
  const ValueId x = module.graph.input("x", DType::kF32, {{.value = 1}, seq, {.value = 4}});
  const ValueId turned = module.graph.add(Op::kTranspose, {x}, AxesAttributes{.axes = {2, 1, 0}});
  const Lowered lowered = module.lower(turned);
  const OnnxNode* transpose = lowered.onnx.of_op("Transpose").at(0);
  EXPECT_EQ(lowered.onnx.values.at(transpose->inputs[0]).sizes, (Sizes{1, 6, 4}));
  EXPECT_EQ(lowered.onnx.values.at(transpose->output).sizes, (Sizes{4, 6, 1}));
}

TEST(QnnModules, MultiplyRowsOfAnyRankByAWeight) {
  Module module;
  const ValueId x = module.input({2, 3, 32});
  const ValueId y = module.graph.add(Op::kLinear, {x, module.weight("w", {8, 32})}, {}, "proj");
  const Lowered lowered = module.lower(module.graph.add(Op::kExp, {y}));
  const OnnxNode* gemm = lowered.onnx.of_op("Gemm").at(0);
  EXPECT_EQ(lowered.onnx.values.at(gemm->inputs[0]).sizes, (Sizes{6, 32}));
  EXPECT_EQ(lowered.onnx.values.at(lowered.onnx.of_op("Exp").at(0)->output).sizes, (Sizes{2, 3, 8}));
}

TEST(QnnModules, JoinValuesInTheRangeOfAllOfThem) {
  Module module;
  const ValueId a = module.input({2, 4}, "a");
  const ValueId b = module.input({2, 4}, "b");
  const ValueId joined = module.graph.add(Op::kConcat, {a, b}, AxesAttributes{.axes = {0}});
  module.set_range(a, {.min = -3.0F, .max = 1.0F});
  module.set_range(b, {.min = -1.0F, .max = 7.0F});
  const Lowered lowered = module.lower(joined, kStatic);
  const OnnxNode* concat = lowered.onnx.of_op("Concat").at(0);
  const Encoding both = choose_encoding({.min = -3.0F, .max = 7.0F}, 8);
  EXPECT_EQ(lowered.encoding_after(concat->output), both);
  for (const std::string& input : concat->inputs) {
    EXPECT_EQ(lowered.encoding_of(*lowered.onnx.maker(input)), both);
  }
}

TEST(QnnModules, NormalizeWithABiasInModeStatic) {
  for (const Lowering& settings : {Lowering{}, kStatic}) {
    Module module;
    const ValueId x = module.input({2, 3, 8});
    const ValueId y = module.graph.add(Op::kLayerNorm, {x}, LayerNormAttributes{.epsilon = 0.5F}, "norm");
    const Lowered lowered = module.lower(y, settings);
    const OnnxNode* norm = lowered.onnx.of_op("LayerNormalization").at(0);
    EXPECT_EQ(norm->inputs.size(), settings.is_static ? 3U : 2U);
    EXPECT_EQ(norm->attributes.at("epsilon").number, 0.5F);
    EXPECT_EQ(norm->attributes.at("axis").integer, -1);
    for (const double factor : lowered.constant(norm->inputs[1])) {
      EXPECT_NEAR(factor, 1.0, 1e-6);
    }
  }
}

// What a mask adds to scores.
const OnnxNode* masking(const Lowered& lowered) {
  const OnnxNode* softmax = lowered.onnx.of_op("Softmax").at(0);
  const OnnxNode* add = lowered.onnx.maker(softmax->inputs[0]);
  while (add->op != "Add") {
    add = lowered.onnx.maker(add->inputs[0]);
  }
  return add;
}

TEST(QnnModules, SaturateWhatAMaskHides) {
  for (const float hidden : {kLeast, -kInfinity, -1e9F}) {
    for (const bool is_attention : {false, true}) {
      for (const Lowering& settings : {kHalves, kStatic}) {
        Module module;
        const ValueId mask = module.constant({0.0F, hidden, -0.5F, 0.0F}, {2, 2});
        ValueId output = -1;
        if (is_attention) {
          const ValueId x = module.input({2, 1, 4});
          output = module.graph.add(Op::kAttention, {x, x, x, mask}, AttentionAttributes{.scale = 1.0F});
          module.ranges.scores[output] = {.min = -3.0F, .max = 5.0F};
        } else {
          const ValueId x = module.input({3, 2, 2});
          const ValueId sum = module.graph.add(Op::kAdd, {x, mask});
          output = module.graph.add(Op::kSoftmax, {sum});
          module.set_range(x, {.min = -3.0F, .max = 5.0F});
          module.set_range(sum, {.min = kLeast, .max = 5.0F});
        }
        const Lowered lowered = module.lower(output, settings);
        const OnnxNode* add = masking(lowered);
        const std::vector<double> values = lowered.constant(add->inputs[1]);
        ASSERT_EQ(values.size(), 4U);
        EXPECT_EQ(values[0], 0.0);
        if (!settings.is_static) {
          EXPECT_NEAR(values[1], -1e4, 8.0);
          EXPECT_EQ(values[2], -0.5);
          continue;
        }
        // Even the greatest score falls to the bottom, 8 below the least.
        EXPECT_NEAR(values[1], -3.0 - 8.0 - 5.0, 0.1);
        EXPECT_NEAR(values[2], -0.5, 0.1);
        EXPECT_EQ(lowered.encoding_after(add->output), choose_encoding({.min = -11.0F, .max = 5.0F}, 8));
      }
    }
  }
}

TEST(QnnModules, NarrowTheRangeOfAMaskThatIsAnInput) {
  Module module;
  const ValueId x = module.input({3, 2, 4});
  const ValueId mask = module.input({4}, "mask");
  const ValueId row = module.graph.add(Op::kReshape, {mask}, ShapeAttributes{.shape = fixed({1, 1, 4})});
  const ValueId sum = module.graph.add(Op::kAdd, {row, x});
  const ValueId shares = module.graph.add(Op::kSoftmax, {sum});
  module.set_range(x, {.min = -3.0F, .max = 5.0F});
  module.set_range(mask, {.min = kLeast, .max = 0.0F});
  module.set_range(sum, {.min = kLeast, .max = 5.0F});
  const Lowered lowered = module.lower(shares, kStatic);
  EXPECT_EQ(lowered.encoding_after("mask"), choose_encoding({.min = -16.0F, .max = 0.0F}, 8));
}

TEST(QnnModules, KeepAMaskThatIsReadAsANumber) {
  Module module;
  const ValueId x = module.input({2, 2});
  const ValueId mask = module.constant({0.0F, -3e4F, -1.0F, 0.0F}, {2, 2});
  const ValueId shares = module.graph.add(Op::kSoftmax, {module.graph.add(Op::kAdd, {x, mask})});
  const ValueId product = module.graph.add(Op::kMultiply, {shares, mask});
  const Lowered lowered = module.lower(product);
  EXPECT_EQ(lowered.constant(lowered.onnx.of_op("Add").at(0)->inputs[1])[1], -3e4);
}

TEST(QnnModules, LeaveOutWhatTheOutputDoesNotNeed) {
  Module module;
  const ValueId x = module.input({3});
  module.graph.add(Op::kExp, {module.input({2}, "z")});
  const Lowered lowered = module.lower(module.graph.add(Op::kTanh, {x}));
  EXPECT_TRUE(lowered.onnx.of_op("Exp").empty());
  EXPECT_EQ(lowered.onnx.inputs.size(), 2U);
}

TEST(QnnModules, CallNoLayerAsAnInputOrTheOutput) {
  Module module;
  const ValueId x = module.input({2, 8});
  const ValueId first = module.graph.add(Op::kLinear, {x, module.weight("a", {8, 8})}, {}, "y");
  const ValueId second = module.graph.add(Op::kLinear, {first, module.weight("b", {8, 8})}, {}, "x");
  const Lowered lowered = module.lower(second);
  std::set<std::string> names = {"x"};
  for (const OnnxNode& node : lowered.onnx.nodes) {
    EXPECT_TRUE(names.insert(node.output).second) << node.output;
  }
  EXPECT_TRUE(names.contains("y"));
}

TEST(QnnModules, RefuseWhatQnnHasNot) {
  const auto residual = [](Module& module) {
    const ValueId ids = module.input({1, 3}, "ids", DType::kI64);
    const ValueId rows = module.graph.add(Op::kEmbedding, {module.weight("table", {5, 8}), ids}, {}, "embedding");
    const ValueId first = module.graph.add(Op::kAdd, {rows, module.graph.add(Op::kExp, {rows})});
    return module.graph.add(Op::kAdd, {first, module.graph.add(Op::kExp, {first})});
  };
  {
    Module module;
    const ValueId output = module.graph.add(Op::kAdd, {residual(module), module.input({1, 3, 8}, "late")});
    expect_error(ErrorCode::kUnsupported, {"late", "--shards"},
                 [&] { module.lower(output, {.settings = {.host_embedding = true}}); });
  }
  {
    Module module;
    const ValueId output = module.graph.add(Op::kTanh, {module.input({3})});
    expect_error(ErrorCode::kUnsupported, {"embedding"},
                 [&] { module.lower(output, {.settings = {.host_embedding = true}}); });
    expect_error(ErrorCode::kUnsupported, {"shards"}, [&] { module.lower(output, {.settings = {.shards = 2}}); });
    expect_error(ErrorCode::kInvalidArgument, {"'x'"}, [&] { module.lower(output, {}, "x"); });
  }
  {
    Module module;
    const ValueId x = module.input({3, 4});
    const ValueId output = module.graph.add(Op::kLinear, {x, x}, {}, "proj");
    expect_error(ErrorCode::kUnsupported, {"proj", "matmul"}, [&] { module.lower(output); });
  }
  {
    Module module;
    const ValueId output = module.graph.add(Op::kGather, {module.input({3, 4}), module.input({2}, "z")});
    expect_error(ErrorCode::kUnsupported, {"integers"}, [&] { module.lower(output); });
  }
  {
    Module module;
    const ValueId bad = module.constant({std::nanf("")}, {1});
    const ValueId output = module.graph.add(Op::kAdd, {module.input({3}), bad});
    expect_error(ErrorCode::kInvalidArgument, {"not a number"}, [&] { module.lower(output); });
  }
}

}  // namespace
}  // namespace diffulex_edge::qnn
