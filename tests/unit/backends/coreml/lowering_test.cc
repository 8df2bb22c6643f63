// Graphs of torch modules as ML Programs: which operations each operator becomes, and of which shapes.
#include "backends/coreml/lowering.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <limits>
#include <string>
#include <vector>

#include "diffulex_edge/backend.h"
#include "diffulex_edge/coreml_backend.h"
#include "support/mil_reader.h"
#include "support/temporary_folder.h"

namespace diffulex_edge::coreml {
namespace {

namespace fs = std::filesystem;
using testing::Proto;
using testing::ReadOperation;
using testing::ReadProgram;
using testing::ReadType;
using Types = std::vector<std::string>;
using Ints = std::vector<std::int64_t>;

constexpr std::int64_t kFloat16 = 10;
constexpr std::int64_t kFloat32 = 11;
constexpr std::int64_t kInt32 = 23;
constexpr Dim kSeq = {.value = 6, .is_sequence = true};
constexpr float kInfinity = std::numeric_limits<float>::infinity();

Shape shape(std::initializer_list<std::int64_t> sizes) { return static_shape(std::vector(sizes)); }

class LoweredGraphs : public ::testing::Test {
 protected:
  // A weight in float32 with some numbers.
  ValueId weight(const std::string& name, std::vector<std::int64_t> sizes) {
    const ValueId id = graph_.weight(name, static_shape(sizes));
    const std::int64_t count = element_count(static_shape(sizes));
    std::vector<float>& values = tensors_.emplace_back();
    for (std::int64_t i = 0; i < count; ++i) {
      values.push_back(static_cast<float>(i % 7) / 8.0F);
    }
    views_.push_back(
        {.name = name, .dtype = DType::kF32, .shape = std::move(sizes), .bytes = std::as_bytes(std::span(values))});
    return id;
  }
  ValueId input(const char* name, Shape sizes, DType dtype = DType::kF32) {
    return graph_.input(name, dtype, std::move(sizes));
  }
  BackendConfig config(ActivationDtype arithmetic, const char* lengths = nullptr) const {
    BackendConfig config;
    config.quant_config.dtype = QuantizationDtype::FP32;
    config.activation_dtype = arithmetic;
    config.backend_options = options_;
    if (lengths != nullptr) {
      config.input_lengths = parse_input_lengths(lengths);
    }
    return config;
  }
  ExportResult run(const BackendConfig& config) {
    Model model;
    model.config.family = "module";
    model.seq_len = kSeq.value;
    model.graph = graph_;
    model.checkpoint = std::make_shared<const Checkpoint>(views_);
    return CoreMLBackend(config).export_model(model, folder_ / "x.mlpackage");
  }
  // The message of the model whose output is `output`.
  Proto exported(ValueId output, const BackendConfig& config) {
    graph_.set_output(output, "result");
    last_ = run(config);
    EXPECT_TRUE(last_.success) << last_.error_message;
    return Proto(testing::read_file(folder_ / "x.mlpackage/Data/com.apple.CoreML/model.mlmodel"));
  }
  ReadProgram program(ValueId output, ActivationDtype arithmetic = ActivationDtype::FP32,
                      const char* lengths = nullptr) {
    return testing::read_program(exported(output, config(arithmetic, lengths)).text(502));
  }
  void expect_refused(ValueId output, const BackendConfig& config, ErrorCode code, const std::string& sentence) {
    graph_.set_output(output, "result");
    const ExportResult result = run(config);
    EXPECT_EQ(result.error_code, code);
    EXPECT_EQ(result.error_message, sentence);
  }
  // All operations but constants.
  static Types types(const ReadProgram& program) {
    Types types;
    for (const ReadOperation& operation : program.operations) {
      if (operation.type != "const") {
        types.push_back(operation.type);
      }
    }
    return types;
  }
  static Ints ints(const ReadProgram& program, const ReadOperation& operation, const std::string& parameter) {
    return program.at(operation.input(parameter)).attributes.at("val").ints;
  }

  testing::TemporaryFolder folder_;
  Graph graph_;
  std::map<std::string, std::string> options_;
  ExportResult last_;
  std::vector<TensorView> views_;
  std::deque<std::vector<float>> tensors_;
};

TEST_F(LoweredGraphs, HaveAnOperationForEachElementwiseOperator) {
  const std::vector<std::pair<Op, std::string>> kUnary = {
      {Op::kSquare, "square"},   {Op::kReciprocalSquareRoot, "rsqrt"},
      {Op::kSquareRoot, "sqrt"}, {Op::kSigmoid, "sigmoid"},
      {Op::kTanh, "tanh"},       {Op::kExp, "exp"},
      {Op::kSin, "sin"},         {Op::kCos, "cos"},
      {Op::kFloor, "floor"},     {Op::kNegate, "mul"},
      {Op::kSoftmax, "softmax"}, {Op::kReduceMean, "reduce_mean"}};
  const ValueId x = input("x", {{.value = 2}, kSeq, {.value = 5}});
  for (const auto& [op, type] : kUnary) {
    SCOPED_TRACE(type);
    const ReadProgram read = program(graph_.add(op, {x}), ActivationDtype::FP32, "1..6");
    EXPECT_EQ(types(read), Types{type});
    EXPECT_EQ(read.at("result").output_type,
              (ReadType{.dtype = kFloat32, .sizes = {2, -1, op == Op::kReduceMean ? 1 : 5}}));
  }
  const ValueId y = input("y", shape({3, 1, 1, 5}));
  for (const auto& [op, type] : {std::pair{Op::kAdd, "add"}, std::pair{Op::kSubtract, "sub"},
                                 std::pair{Op::kMultiply, "mul"}, std::pair{Op::kDivide, "real_div"}}) {
    SCOPED_TRACE(type);
    const ReadProgram read = program(graph_.add(op, {x, y}), ActivationDtype::FP32, "1..6");
    EXPECT_EQ(types(read), Types{type});
    EXPECT_EQ(read.at("result").input("x"), "x");
    EXPECT_EQ(read.at("result").output_type, (ReadType{.dtype = kFloat32, .sizes = {3, 2, -1, 5}}));
  }
}

TEST_F(LoweredGraphs, SayWhichGeluTheyHave) {
  const ValueId x = input("x", shape({2, 3}));
  for (const bool tanh : {false, true}) {
    const ReadProgram read = program(graph_.add(Op::kGelu, {x}, GeluAttributes{.tanh = tanh}));
    EXPECT_EQ(read.at(read.at("result").input("mode")).attributes.at("val").strings,
              std::vector<std::string>{tanh ? "TANH_APPROXIMATION" : "EXACT"});
  }
}

TEST_F(LoweredGraphs, ClampWithWhateverBoundThereIs) {
  const ValueId x = input("x", shape({2, 3}));
  const auto clamped = [&](float min, float max, ActivationDtype arithmetic = ActivationDtype::FP32) {
    Types found = types(program(graph_.add(Op::kClamp, {x}, ClampAttributes{.min = min, .max = max}), arithmetic));
    std::erase(found, "cast");
    return found;
  };
  EXPECT_EQ(clamped(-1.0F, 2.0F), Types{"clip"});
  EXPECT_EQ(clamped(0.0F, kInfinity), Types{"relu"});
  EXPECT_EQ(clamped(0.5F, kInfinity), Types{"maximum"});
  EXPECT_EQ(clamped(-kInfinity, 2.0F), Types{"minimum"});
  EXPECT_EQ(clamped(-kInfinity, kInfinity), Types{"identity"});
  EXPECT_EQ(clamped(-1e9F, 1.0F, ActivationDtype::FP16), (Types{"clip", "minimum"}));  // the first is the input's
}

TEST_F(LoweredGraphs, MoveValuesAlongAnyAxis) {
  const ValueId x = input("x", {{.value = 4}, kSeq, {.value = 6}});
  const ValueId cut = graph_.add(Op::kSlice, {x}, SliceAttributes{.axis = 0, .begin = 1, .end = 3});
  const ValueId turned = graph_.add(Op::kTranspose, {cut}, AxesAttributes{.axes = {2, 0, 1}});
  const ValueId joined = graph_.add(Op::kConcat, {turned, turned}, AxesAttributes{.axes = {1}});
  const ReadProgram read =
      program(graph_.add(Op::kReshape, {joined}, ShapeAttributes{.shape = {{.value = 3}, {.value = 8}, kSeq}}),
              ActivationDtype::FP32, "2,6");
  EXPECT_EQ(types(read), (Types{"slice_by_index", "transpose", "concat", "reshape"}));
  const ReadOperation slice = read.of_type("slice_by_index").at(0);
  EXPECT_EQ(ints(read, slice, "begin"), (Ints{1, 0, 0}));
  EXPECT_EQ(ints(read, slice, "end"), (Ints{3, 0, 0}));
  EXPECT_EQ(read.at(slice.input("end_mask")).attributes.at("val").bools, (Ints{0, 1, 1}));
  EXPECT_EQ(slice.output_type.sizes, (Ints{2, -1, 6}));
  EXPECT_EQ(ints(read, read.of_type("transpose").at(0), "perm"), (Ints{2, 0, 1}));
  EXPECT_EQ(read.of_type("concat").at(0).output_type.sizes, (Ints{6, 4, -1}));
  EXPECT_EQ(ints(read, read.at("result"), "shape"), (Ints{3, 8, -1}));
}

TEST_F(LoweredGraphs, MultiplyMatrices) {
  const ValueId a = input("a", {{.value = 2}, kSeq, {.value = 3}});
  const ValueId b = input("b", shape({5, 3}));
  const ValueId product = graph_.add(Op::kMatMul, {a, b}, MatMulAttributes{.transpose_b = true});
  const ReadProgram read = program(product, ActivationDtype::FP32, "1..6");
  EXPECT_EQ(read.at(read.at("result").input("transpose_y")).attributes.at("val").bools, Ints{1});
  EXPECT_EQ(read.at("result").output_type.sizes, (Ints{2, -1, 5}));
}

TEST_F(LoweredGraphs, TakeLinearLayersOfAnyRank) {
  for (const std::int64_t rank : {1, 3, 4}) {
    Shape sizes(static_cast<std::size_t>(rank - 1), Dim{.value = 2});
    sizes.push_back({.value = 8});
    const std::string name = "fc" + std::to_string(rank);
    const ValueId x = input(("x" + std::to_string(rank)).c_str(), sizes);
    const ReadProgram read =
        program(graph_.add(Op::kLinear, {x, weight(name + ".w", {4, 8}), weight(name + ".b", {4})}, {}, name));
    EXPECT_EQ(types(read), rank == 4 ? (Types{"matmul", "add"}) : Types{"linear"});
  }
}

TEST_F(LoweredGraphs, NormalizeLayersInFp16WithoutTheirSquares) {
  const ValueId x = input("x", shape({2, 8}));
  const ValueId norm = graph_.add(Op::kLayerNorm, {x, weight("w", {8}), weight("b", {8})},
                                  LayerNormAttributes{.epsilon = 1e-5F}, "norm");
  const ReadProgram single = program(norm);
  EXPECT_EQ(types(single), Types{"layer_norm"});
  EXPECT_EQ(single.at(single.at("result").input("gamma")).attributes.at("val").type,
            (ReadType{.dtype = kFloat32, .sizes = {8}}));
  EXPECT_FALSE(single.at("result").input("beta").empty());
  const ReadProgram half = program(norm, ActivationDtype::FP16);
  EXPECT_TRUE(half.of_type("layer_norm").empty());
  EXPECT_EQ(half.of_type("reduce_max").size(), 2U);
  // What is squared was divided by the largest magnitude.
  EXPECT_EQ(half.at(half.of_type("square").at(0).input("x")).type, "real_div");
}

TEST_F(LoweredGraphs, TakeNumbersInFloat32AndIdsInInt32) {
  const ValueId x = input("x", {{.value = 1}, kSeq, {.value = 4}});
  const ValueId ids = input("ids", {{.value = 1}, kSeq}, DType::kI32);
  const ValueId row = graph_.add(Op::kEmbedding, {weight("table", {9, 4}), ids}, {}, "table");
  const ReadProgram read = program(graph_.add(Op::kAdd, {x, row}), ActivationDtype::FP16, "1..6");
  ASSERT_EQ(read.inputs.size(), 2U);
  EXPECT_EQ(read.inputs[0], std::pair(std::string("x"), ReadType{.dtype = kFloat32, .sizes = {1, -1, 4}}));
  EXPECT_EQ(read.inputs[1], std::pair(std::string("ids"), ReadType{.dtype = kInt32, .sizes = {1, -1}}));
  EXPECT_EQ(read.of_type("clip").at(0).input("x"), "x");  // to what float16 holds
  EXPECT_EQ(read.of_type("add").at(0).output_type.dtype, kFloat16);
  EXPECT_EQ(read.at("result").output_type.dtype, kFloat32);
}

TEST_F(LoweredGraphs, DescribeTheInputsWhoseSizeVaries) {
  const ValueId x = input("x", {kSeq, {.value = 4}});
  const ValueId y = input("y", shape({1, 4}));
  const ValueId sum = graph_.add(Op::kAdd, {x, y});
  const auto array = [](const Proto& model, std::size_t input) {
    return Proto(model.at(2).all(1).at(input)).at(3).at(5);
  };
  const Proto range = exported(sum, config(ActivationDtype::FP32, "2..6"));
  const auto sizes = array(range, 0).at(31).all(1);
  ASSERT_EQ(sizes.size(), 2U);
  EXPECT_EQ(Proto(sizes[0]).number(1), 2);
  EXPECT_EQ(Proto(sizes[0]).number(2), 6);
  EXPECT_EQ(Proto(sizes[1]).number(2), 4);
  EXPECT_FALSE(array(range, 1).has(31));
  EXPECT_EQ(array(range, 1).numbers(1), (Ints{1, 4}));
  const Proto some = exported(sum, config(ActivationDtype::FP32, "2,6"));
  EXPECT_EQ(Proto(array(some, 0).at(21).all(1).at(1)).numbers(1), (Ints{6, 4}));
  EXPECT_EQ(array(exported(sum, config(ActivationDtype::FP32)), 0).numbers(1), (Ints{6, 4}));
}

TEST_F(LoweredGraphs, CutConstantsAlongTheirSequence) {
  const ValueId x = input("x", {{.value = 4}, kSeq});
  const std::vector<float> numbers(24, 1.0F);
  const ValueId last = graph_.constant(numbers, {{.value = 4}, kSeq});
  const ReadProgram read = program(graph_.add(Op::kAdd, {x, last}), ActivationDtype::FP32, "1..6");
  // The length is that of the input's second dimension; the end is [0, length].
  const ReadOperation length = read.at("length");
  EXPECT_EQ(ints(read, length, "begin"), Ints{1});
  const ReadOperation cut = read.at(read.at("result").input("y"));
  EXPECT_EQ(cut.type, "slice_by_index");
  EXPECT_EQ(read.at(cut.input("end_mask")).attributes.at("val").bools, (Ints{1, 0}));
  EXPECT_EQ(read.at(cut.input("end")).inputs.at("values").names.at(1), "length");
  const ReadProgram fixed = program(graph_.add(Op::kAdd, {x, last}));
  EXPECT_EQ(types(fixed), Types{"add"});

  const ValueId square = input("square", {kSeq, kSeq});
  const ValueId mask = graph_.constant(std::vector<float>(36, 1.0F), {kSeq, kSeq});
  const ReadProgram both = program(graph_.add(Op::kMultiply, {square, mask}), ActivationDtype::FP32, "1..6");
  const ReadOperation corner = both.at(both.at("result").input("y"));
  EXPECT_EQ(both.at(corner.input("end")).inputs.at("values").names, (Types{"length", "length"}));
  EXPECT_EQ(both.at(corner.input("end_mask")).attributes.at("val").bools, (Ints{0, 0}));
}

TEST_F(LoweredGraphs, LeaveConstantsOfFixedShapeWhole) {
  const ValueId x = input("x", {kSeq, {.value = 6}});
  const ValueId row = graph_.constant(std::vector<float>(6, 1.0F), shape({6}));
  EXPECT_EQ(types(program(graph_.add(Op::kAdd, {x, row}), ActivationDtype::FP32, "1..6")), Types{"add"});
}

TEST_F(LoweredGraphs, ReshapeConstantsThatCannotBeCut) {
  const ValueId x = input("x", {kSeq, {.value = 4}});
  const ValueId table = graph_.constant(std::vector<float>(24, 1.0F), {{.value = 4}, kSeq});
  const ValueId mixed = graph_.add(Op::kReshape, {table}, ShapeAttributes{.shape = {kSeq, {.value = 4}}});
  const ValueId sum = graph_.add(Op::kAdd, {x, mixed});
  EXPECT_EQ(program(sum, ActivationDtype::FP32, "1..6").of_type("reshape").size(), 1U);
  EXPECT_EQ(types(program(sum)), Types{"add"});
}

TEST_F(LoweredGraphs, HoldMasksInFp16) {
  const ValueId x = input("x", shape({1, 2}));
  const ValueId mask = graph_.constant({0.0F, -kInfinity}, shape({1, 2}));
  const ReadProgram read = program(graph_.add(Op::kAdd, {x, mask}), ActivationDtype::FP16);
  EXPECT_EQ(read.at(read.of_type("add").at(0).input("y")).attributes.at("val").bytes, std::string("\0\0\x53\xF7", 4));
  ASSERT_EQ(last_.metadata.warnings.size(), 1U);
  EXPECT_EQ(last_.metadata.warnings[0], "constants of -65504 and less, such as those of masks, are -30000 in FP16");
  program(graph_.add(Op::kAdd, {x, mask}));
  EXPECT_TRUE(last_.metadata.warnings.empty());
  const ValueId large = graph_.add(Op::kAdd, {x, graph_.constant({1e5F}, shape({1}))});
  expect_refused(large, config(ActivationDtype::FP16), ErrorCode::kUnsupported,
                 "constant: has values beyond FP16 (65504) (use --activation-dtype fp32)");
}

TEST_F(LoweredGraphs, AddAnyMaskToScores) {
  const ValueId x = input("x", {kSeq, {.value = 2}, {.value = 4}});
  const ValueId mask = input("mask", {kSeq, kSeq});
  const ValueId mixed = graph_.add(Op::kAttention, {x, x, x, mask}, AttentionAttributes{.scale = 0.5F});
  const ReadProgram read = program(mixed, ActivationDtype::FP16, "1..6");
  const ReadOperation attention = read.of_type("scaled_dot_product_attention").at(0);
  EXPECT_EQ(read.at(attention.input("attn_mask")).type, "clip");
  EXPECT_EQ(read.at(attention.input("attn_mask")).output_type.sizes, (Ints{-1, -1}));
  options_["minimum_deployment_target"] = "iOS16";
  EXPECT_EQ(program(mixed, ActivationDtype::FP32, "1..6").of_type("softmax").size(), 1U);
}

TEST_F(LoweredGraphs, ChangeNamesThatCoreMLDoesNotTake) {
  const ValueId x = input("state", shape({2, 4}));
  const ValueId y = input("result", shape({2, 4}));
  const ReadProgram read = program(graph_.add(Op::kAdd, {x, y}));
  EXPECT_EQ(read.inputs.at(0).first, "state_");
  EXPECT_EQ(read.outputs, Types{"result_0"});
  EXPECT_EQ(last_.metadata.warnings,
            (Types{"input 'state' has a name that Core ML does not take here: it is called 'state_'",
                   "output 'result' has a name that Core ML does not take here: it is called 'result_0'"}));
}

TEST_F(LoweredGraphs, RefuseWhatCoreMLHasNotClearly) {
  const ValueId x = input("x", shape({2, 4}));
  const BackendConfig single = config(ActivationDtype::FP32);
  expect_refused(graph_.add(Op::kExp, {x}), config(ActivationDtype::FP32, "1..6"), ErrorCode::kInvalidArgument,
                 "sequence length: every shape of this model is fixed (leave out the lengths)");
  expect_refused(graph_.add(Op::kEmbedding, {weight("t", {4, 4}), graph_.add(Op::kFloor, {x})}, {}, "t"), single,
                 ErrorCode::kUnsupported, "embedding 't': its ids are computed numbers, not an input's integers");
  const ValueId half = graph_.input("half", DType::kF16, shape({2, 4}));
  expect_refused(half, single, ErrorCode::kUnsupported,
                 "input 'half': is of type F16: Core ML takes float32 and integers here");
  // Last, since it is refused wherever it is in a graph.
  expect_refused(
      graph_.add(Op::kReshape, {x}, ShapeAttributes{.shape = shape({1, 1, 1, 1, 2, 4})}, "deep"), single,
      ErrorCode::kUnsupported,
      "deep: its value has the shape [1, 1, 1, 1, 2, 4], and Core ML takes at most 5 dimensions (reshape the "
      "model's inputs)");
}

TEST_F(LoweredGraphs, RefuseSeveralEnumeratedInputsBeforeIos18) {
  const ValueId sum = graph_.add(Op::kAdd, {input("x", {kSeq}), input("y", {kSeq})});
  program(sum, ActivationDtype::FP32, "2,6");
  options_["minimum_deployment_target"] = "iOS17";
  program(sum, ActivationDtype::FP32, "2..6");
  expect_refused(sum, config(ActivationDtype::FP32, "2,6"), ErrorCode::kUnsupported,
                 "sequence length: several inputs with enumerated lengths need the deployment target iOS18 or macOS15 "
                 "(raise --minimum-deployment-target, or give a range)");
}

}  // namespace
}  // namespace diffulex_edge::coreml
