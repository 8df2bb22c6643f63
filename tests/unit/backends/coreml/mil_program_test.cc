#include "backends/coreml/mil_program.h"

#include <gtest/gtest.h>

#include <array>
#include <limits>

#include "support/mil_reader.h"

namespace diffulex_edge::coreml {
namespace {

using testing::ReadLiteral;
using testing::ReadOperation;
using testing::ReadProgram;
using testing::ReadType;

const Shape kFlexible = {{.value = 1}, {.value = 128, .is_sequence = true}, {.value = 64}};

ReadProgram read(const MilFunction& function, const std::string& opset = "CoreML8") {
  return testing::read_program(function.serialize_program(opset));
}

// The one `const` of a function.
ReadLiteral written(MilLiteral literal) {
  MilFunction function;
  function.constant(std::move(literal));
  return read(function).operations.at(0).attributes.at("val");
}

ReadType type_of(MilDtype dtype, std::vector<std::int64_t> sizes) {
  return {.dtype = static_cast<std::int64_t>(dtype), .sizes = std::move(sizes)};
}

// MIL.proto's DataType.
TEST(MilTypes, HaveTheNumbersOfTheFormat) {
  const std::pair<MilDtype, int> kNumbers[] = {
      {MilDtype::kBool, 1},    {MilDtype::kString, 2}, {MilDtype::kFloat16, 10}, {MilDtype::kFloat32, 11},
      {MilDtype::kInt8, 21},   {MilDtype::kInt32, 23}, {MilDtype::kInt4, 25},    {MilDtype::kUint8, 31},
      {MilDtype::kUint32, 33}, {MilDtype::kUint4, 35}};
  for (const auto& [dtype, number] : kNumbers) {
    MilFunction function;
    function.input("x", {.dtype = dtype, .shape = {}});
    EXPECT_EQ(read(function).inputs.at(0).second, (ReadType{.dtype = number, .sizes = {}}));
  }
}

TEST(MilTypes, WriteTheSequenceAsAnUnknownSize) {
  MilFunction function;
  const auto x = function.input("x", {.dtype = MilDtype::kFloat16, .shape = kFlexible});
  function.add("relu", {{"x", {x}}}, function.type(x));
  const ReadProgram program = read(function);
  EXPECT_EQ(program.inputs.at(0).second, type_of(MilDtype::kFloat16, {1, -1, 64}));
  EXPECT_EQ(program.operations.at(0).output_type, type_of(MilDtype::kFloat16, {1, -1, 64}));
}

TEST(MilTypes, WriteOtherSizesAsTheyAre) {
  MilFunction function;
  function.input("x", {.dtype = MilDtype::kInt32, .shape = {{.value = 1}, {.value = std::int64_t{3} << 32U}}});
  EXPECT_EQ(read(function).inputs.at(0).second, type_of(MilDtype::kInt32, {1, std::int64_t{3} << 32U}));
}

TEST(MilLiterals, OfEveryKindComeBack) {
  EXPECT_EQ(written(int_literal(-7)).ints, std::vector<std::int64_t>{-7});
  EXPECT_EQ(written(int_literal(-7)).type, type_of(MilDtype::kInt32, {}));
  EXPECT_EQ(written(int_literal(0)).ints, std::vector<std::int64_t>{0});
  EXPECT_EQ(written(ints_literal({0, -1, 300})).ints, (std::vector<std::int64_t>{0, -1, 300}));
  EXPECT_EQ(written(ints_literal({0, -1, 300})).type, type_of(MilDtype::kInt32, {3}));
  EXPECT_EQ(written(bool_literal(true)).bools, std::vector<std::int64_t>{1});
  EXPECT_EQ(written(bool_literal(false)).bools, std::vector<std::int64_t>{0});
  EXPECT_EQ(written(bool_literal(false)).type, type_of(MilDtype::kBool, {}));
  EXPECT_EQ(written(bools_literal({true, false, true})).bools, (std::vector<std::int64_t>{1, 0, 1}));
  EXPECT_EQ(written(bools_literal({true, false})).type, type_of(MilDtype::kBool, {2}));
  EXPECT_EQ(written(string_literal("fp16")).strings, std::vector<std::string>{"fp16"});
  EXPECT_EQ(written(string_literal("")).strings, std::vector<std::string>{""});
  EXPECT_EQ(written(string_literal("fp16")).type, type_of(MilDtype::kString, {}));
  EXPECT_EQ(written(int8_literal(-128)).bytes, "\x80");
  EXPECT_EQ(written(int8_literal(-128)).type, type_of(MilDtype::kInt8, {}));
  const std::vector<std::int64_t> sizes = {1, 0x0102'0304, 0xFFFF'FFFF};
  EXPECT_EQ(written(uint32s_literal(sizes)).bytes, std::string("\1\0\0\0\4\3\2\1\xFF\xFF\xFF\xFF", 12));
  EXPECT_EQ(written(uint32s_literal(sizes)).type, type_of(MilDtype::kUint32, {3}));
}

TEST(MilLiterals, OfFloatsHaveTheTypeThatIsAskedFor) {
  const ReadLiteral single = written(float_literal(MilDtype::kFloat32, 0.1F));
  EXPECT_EQ(single.floats, std::vector<float>{0.1F});
  EXPECT_EQ(single.type, type_of(MilDtype::kFloat32, {}));
  const ReadLiteral half = written(float_literal(MilDtype::kFloat16, 0.1F));
  EXPECT_EQ(half.bytes, "\x66\x2E");  // 0x2E66 is the nearest
  EXPECT_EQ(half.type, type_of(MilDtype::kFloat16, {}));
  EXPECT_EQ(written(float_literal(MilDtype::kFloat16, 0.0F)).bytes, std::string(2, '\0'));
  EXPECT_EQ(written(float_literal(MilDtype::kFloat16, -2.0F)).bytes, std::string("\0\xC0", 2));
}

TEST(MilLiterals, OfSeveralFloatsHaveTheirShape) {
  const std::array kValues = {1.0F, -2.0F};
  const ReadLiteral half = written(floats_literal(MilDtype::kFloat16, kValues, {{.value = 2}, {.value = 1}}));
  EXPECT_EQ(half.type, type_of(MilDtype::kFloat16, {2, 1}));
  EXPECT_EQ(half.bytes, std::string("\x00\x3C\x00\xC0", 4));
  const ReadLiteral single = written(floats_literal(MilDtype::kFloat32, kValues, {{.value = 2}}));
  EXPECT_EQ(single.floats, (std::vector<float>{1.0F, -2.0F}));
}

TEST(MilLiterals, NameTheBlobThatHoldsThem) {
  const ReadLiteral blob = written(blob_literal(MilDtype::kInt4, std::array<std::int64_t, 2>{96, 64},
                                                {.file = "@model_path/weights/weight.bin", .offset = 5'000'000'064}));
  EXPECT_EQ(blob.file, "@model_path/weights/weight.bin");
  EXPECT_EQ(blob.offset, 5'000'000'064);
  EXPECT_EQ(blob.type, type_of(MilDtype::kInt4, {96, 64}));
}

TEST(MilConstants, AreSharedWhereTheyAreEqual) {
  MilFunction function;
  const auto one = function.constant(int_literal(1));
  EXPECT_EQ(function.constant(int_literal(1), "another"), one);
  const std::array<std::int64_t, 1> size = {2};
  const BlobReference blob{.file = "w", .offset = 64};
  const std::vector<Id> ids = {one,
                               function.constant(int_literal(2)),
                               function.constant(ints_literal({1})),
                               function.constant(bool_literal(true)),
                               function.constant(int8_literal(1)),
                               function.constant(string_literal("1")),
                               function.constant(float_literal(MilDtype::kFloat16, 1.0F)),
                               function.constant(float_literal(MilDtype::kFloat32, 1.0F)),
                               function.constant(float_literal(MilDtype::kFloat32, 0.0F)),
                               function.constant(float_literal(MilDtype::kFloat32, -0.0F)),
                               function.constant(blob_literal(MilDtype::kFloat16, size, blob)),
                               function.constant(blob_literal(MilDtype::kInt8, size, blob)),
                               function.constant(blob_literal(MilDtype::kInt8, size, {"w", 128})),
                               function.constant(blob_literal(MilDtype::kInt8, size, {"v", 128}))};
  EXPECT_EQ(std::set(ids.begin(), ids.end()).size(), ids.size());
  EXPECT_EQ(function.constant(blob_literal(MilDtype::kInt8, size, {"v", 128})), ids.back());
  const ReadProgram program = read(function);
  EXPECT_EQ(program.operations.size(), ids.size());
  for (const ReadOperation& operation : program.operations) {
    EXPECT_EQ(operation.type, "const");
    EXPECT_EQ(operation.attributes.size(), 2U);  // name and val
    EXPECT_EQ(operation.output_type, operation.attributes.at("val").type);
    EXPECT_TRUE(operation.inputs.empty());
  }
  EXPECT_TRUE(function.operations().empty());
}

TEST(MilNames, AreMadeUniqueAndLegal) {  // read_program checks every one
  MilFunction function;
  const auto x = function.input("x", {});
  const auto add = [&](const std::string& wish) { function.add("relu", {{"x", {x}}}, {}, wish); };
  for (const char* wish : {"layers.0.q_proj", "layers_0.q_proj", "layers.0.q_proj", "", "", "x", "0", "4bit", "ü",
                           "layers_0_q_proj_0", "a b-c/d"}) {
    add(wish);
  }
  const ReadProgram program = read(function);
  std::vector<std::string> names;
  for (const ReadOperation& operation : program.operations) {
    names.push_back(operation.output);
  }
  EXPECT_EQ(names, (std::vector<std::string>{"layers_0_q_proj", "layers_0_q_proj_0", "layers_0_q_proj_1", "relu",
                                             "relu_0", "x_0", "_0", "_4bit", "__", "layers_0_q_proj_0_0", "a_b_c_d"}));
}

TEST(MilNames, AreNoWordsOfTheLanguage) {
  MilFunction function;
  EXPECT_EQ(function.take_name("state"), "state_");
  EXPECT_EQ(function.take_name("state"), "state__0");
  EXPECT_EQ(function.take_name("states"), "states");
}

TEST(MilPrograms, KnowWhatIsComputed) {
  MilFunction function;
  const auto x = function.input("x", {.dtype = MilDtype::kFloat32, .shape = kFlexible});
  EXPECT_FALSE(function.is_computed(x));
  EXPECT_FALSE(function.is_computed(function.constant(int_literal(1))));
  EXPECT_TRUE(function.is_computed(function.add("relu", {{"x", {x}}}, function.type(x))));
}

TEST(MilPrograms, HaveInputsOperationsAndOutputs) {
  MilFunction function;
  const MilType type{.dtype = MilDtype::kFloat16, .shape = kFlexible};
  const auto x = function.input("x", type);
  const auto y = function.input("y", {.dtype = MilDtype::kInt32, .shape = {{.value = 3}}});
  const auto sum = function.add("add", {{"x", {x}}, {"y", {x}}}, type);
  const auto axis = function.constant(int_literal(-1));
  const auto both = function.add("concat", {{"values", {x, sum, x}}, {"axis", {axis}}}, type, "both");
  function.output(both, "logits");
  function.output(sum, "between");
  const ReadProgram program = read(function, "CoreML7");
  EXPECT_EQ(program.opset, "CoreML7");
  ASSERT_EQ(program.inputs.size(), 2U);
  EXPECT_EQ(program.inputs[1].first, "y");
  EXPECT_EQ(program.outputs, (std::vector<std::string>{"logits", "between"}));
  const ReadOperation& concat = program.at("logits");  // outputs take the place of the name that was wished for
  EXPECT_EQ(concat.type, "concat");
  EXPECT_EQ(concat.inputs.at("values").names, (std::vector<std::string>{"x", "between", "x"}));
  EXPECT_EQ(program.at(concat.input("axis")).attributes.at("val").ints, std::vector<std::int64_t>{-1});
  EXPECT_EQ(function.operations(), (std::vector<std::string>{"add", "concat"}));
  ASSERT_EQ(function.inputs().size(), 2U);
  EXPECT_EQ(function.inputs()[0].type.shape, kFlexible);
  ASSERT_EQ(function.outputs().size(), 2U);
  EXPECT_EQ(function.outputs()[0].name, "logits");
  EXPECT_EQ(function.outputs()[1].type.dtype, MilDtype::kFloat16);
  EXPECT_EQ(function.type(y).dtype, MilDtype::kInt32);
}

TEST(MilPrograms, AreTheSameBytesEachTime) {
  const auto make = [] {
    MilFunction function;
    const auto x = function.input("x", {.dtype = MilDtype::kFloat16, .shape = kFlexible});
    function.output(function.add("add", {{"x", {x}}, {"y", {function.constant(int_literal(3))}}}, function.type(x)),
                    "y");
    return function.serialize_program("CoreML8");
  };
  EXPECT_EQ(make(), make());
}

TEST(MilConstexprs, TakeTheirParametersAsInputsOrAsAttributes) {
  const std::array<std::int64_t, 2> sizes = {4, 2};
  for (const bool as_attributes : {true, false}) {
    MilFunction function;
    function.add_constexpr("constexpr_lut_to_dense",
                           {{"indices", blob_literal(MilDtype::kUint8, sizes, {"w", 64})},
                            {"shape", uint32s_literal(sizes)},
                            {"text", string_literal("t")}},
                           as_attributes, {.dtype = MilDtype::kFloat16, .shape = static_shape(sizes)}, "w.weight");
    const ReadOperation operation = read(function).at("w_weight");
    EXPECT_EQ(operation.type, "constexpr_lut_to_dense");
    EXPECT_EQ(operation.output_type, type_of(MilDtype::kFloat16, {4, 2}));
    EXPECT_EQ(operation.inputs.size(), as_attributes ? 0U : 3U);
    EXPECT_EQ(operation.attributes.size(), as_attributes ? 4U : 1U);
    const auto parameter = [&](const std::string& name) {
      if (as_attributes) {
        return operation.attributes.at(name);
      }
      EXPECT_TRUE(operation.inputs.at(name).names.empty());
      return operation.inputs.at(name).values.at(0);
    };
    EXPECT_EQ(parameter("indices").offset, 64);
    EXPECT_EQ(parameter("indices").type, type_of(MilDtype::kUint8, {4, 2}));
    EXPECT_EQ(parameter("shape").bytes, std::string("\4\0\0\0\2\0\0\0", 8));
    EXPECT_EQ(parameter("text").strings, std::vector<std::string>{"t"});
    EXPECT_EQ(function.operations(), std::vector<std::string>{"constexpr_lut_to_dense"});
  }
}

}  // namespace
}  // namespace diffulex_edge::coreml
