#include "backends/qnn/onnx_graph.h"

#include <gtest/gtest.h>

#include "diffulex_edge/version.h"
#include "support/onnx_reader.h"

namespace diffulex_edge::qnn {
namespace {

using testing::OnnxTensor;
using testing::OnnxValue;
using testing::read_onnx;
using testing::ReadOnnx;
using Id = OnnxGraph::Id;
using Sizes = std::vector<std::int64_t>;

constexpr std::string_view kContrib = "com.microsoft";

OnnxType floats(Sizes sizes) { return {.dtype = OnnxDtype::kFloat, .sizes = std::move(sizes)}; }

ReadOnnx read(const OnnxGraph& graph) { return read_onnx(graph.serialize({})); }

template <typename T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

TEST(OnnxGraph, WritesAnOperatorAndTheTypesOfItsValues) {
  OnnxGraph graph("data");
  const Id x = graph.input("x", floats({2, 3}));
  const Id y = graph.add("Cast", {x}, {}, {.dtype = OnnxDtype::kFloat16, .sizes = {2, 3}});
  graph.output(graph.add("Neg", {y}, {}, {.dtype = OnnxDtype::kFloat16, .sizes = {2, 3}}), "result");
  const ReadOnnx model = read(graph);
  EXPECT_EQ(model.ir_version, 10);
  EXPECT_EQ(model.producer, "diffulex-edge");
  const OnnxValue half{.dtype = testing::kOnnxFloat16, .sizes = {2, 3}};
  EXPECT_EQ(model.inputs, (decltype(model.inputs){{"x", {.dtype = testing::kOnnxFloat, .sizes = {2, 3}}}}));
  EXPECT_EQ(model.outputs, (decltype(model.outputs){{"result", half}}));
  EXPECT_EQ(model.described, (decltype(model.described){{"Cast", half}}));
  ASSERT_EQ(model.nodes.size(), 2U);
  EXPECT_EQ(model.nodes[0].op, "Cast");
  EXPECT_EQ(model.nodes[0].inputs, std::vector<std::string>{"x"});
  EXPECT_EQ(model.nodes[1].op, "Neg");
  EXPECT_EQ(model.nodes[1].inputs, std::vector<std::string>{"Cast"});
  EXPECT_EQ(model.nodes[1].output, "result");
  EXPECT_TRUE(model.tensors.empty());
}

TEST(OnnxGraph, NumbersNamesThatAreTaken) {
  OnnxGraph graph("data");
  Id x = graph.input("Neg", floats({1}));
  graph.add("Abs", {x}, {}, floats({1}), "Neg_1");
  for (int i = 0; i < 3; ++i) {
    x = graph.add("Neg", {x}, {}, floats({1}));
  }
  EXPECT_EQ(graph.name(x), "Neg_3");  // Neg_1 was a wish, too
  const Id weight = graph.external(floats({1}), {.offset = 0, .bytes = 4}, "Neg");
  const Id number = graph.constant(floats({}), std::as_bytes(std::span("abc")), "Neg");
  EXPECT_EQ(graph.name(weight), "Neg_4");
  EXPECT_EQ(graph.name(number), "Neg_5");
  read(graph);  // no name is there twice
}

TEST(OnnxGraph, KeepsAWishThatIsFree) {
  OnnxGraph graph("data");
  const Id x = graph.input("x", floats({1}));
  EXPECT_EQ(graph.name(graph.add("Neg", {x}, {}, floats({1}), "layers.0.q_proj")), "layers.0.q_proj");
}

TEST(OnnxGraph, SharesEqualConstants) {
  OnnxGraph graph("data");
  EXPECT_EQ(graph.scalar(0.5F), graph.scalar(0.5F));
  EXPECT_EQ(graph.ints({1, 2}), graph.ints({1, 2}));
  const std::vector<float> values = {1.0F, 2.0F};
  const auto bytes = std::as_bytes(std::span(values));
  EXPECT_EQ(graph.constant(floats({2}), bytes, "one"), graph.constant(floats({2}), bytes, "another"));
  EXPECT_EQ(read(graph).tensors.size(), 3U);
}

TEST(OnnxGraph, KeepsConstantsOfOtherValuesTypesOrShapesApart) {
  OnnxGraph graph("data");
  const std::vector<float> values = {1.0F, 2.0F};
  const auto bytes = std::as_bytes(std::span(values));
  const std::set<Id> ids = {graph.constant(floats({2}), bytes), graph.constant(floats({1, 2}), bytes),
                            graph.constant(floats({2, 1}), bytes),
                            graph.constant({.dtype = OnnxDtype::kInt32, .sizes = {2}}, bytes),
                            // 0 and -0 are equal numbers of other bytes.
                            graph.scalar(0.0F), graph.scalar(-0.0F), graph.scalar(1.0F)};
  EXPECT_EQ(ids.size(), 7U);
  const ReadOnnx model = read(graph);
  EXPECT_EQ(model.tensors.size(), 7U);
  EXPECT_EQ(model.tensors.at(graph.name(*ids.begin())).raw, bytes_of(values));
}

TEST(OnnxGraph, HoldsConstantsInLittleEndian) {
  OnnxGraph graph("data");
  const Id one = graph.scalar(1.0F);
  const Id two = graph.ints({2, -1});
  const ReadOnnx model = read(graph);
  const OnnxTensor& scalar = model.tensors.at(graph.name(one));
  EXPECT_EQ(scalar.dtype, testing::kOnnxFloat);
  EXPECT_TRUE(scalar.sizes.empty());
  EXPECT_EQ(scalar.raw, std::string("\0\0\x80\x3F", 4));
  const OnnxTensor& ints = model.tensors.at(graph.name(two));
  EXPECT_EQ(ints.dtype, testing::kOnnxInt64);
  EXPECT_EQ(ints.sizes, Sizes{2});
  EXPECT_EQ(ints.raw, std::string("\2\0\0\0\0\0\0\0", 8) + std::string(8, '\xFF'));
}

TEST(OnnxGraph, SaysWhereExternalDataLies) {
  OnnxGraph graph("some file.data");
  const ExternalData place{.offset = 128, .bytes = 5'000'000'000};
  const OnnxType type{.dtype = OnnxDtype::kInt4, .sizes = {100'000, 100'000}};
  const Id first = graph.external(type, place, "weight");
  const Id second = graph.external(type, place, "weight");
  EXPECT_NE(first, second);  // sharing is the caller's
  const ReadOnnx model = read(graph);
  for (const Id id : {first, second}) {
    const OnnxTensor& tensor = model.tensors.at(graph.name(id));
    EXPECT_EQ(tensor.dtype, testing::kOnnxInt4);
    EXPECT_EQ(tensor.sizes, (Sizes{100'000, 100'000}));
    EXPECT_EQ(tensor.location, "some file.data");
    EXPECT_EQ(tensor.offset, 128);
    EXPECT_EQ(tensor.length, 5'000'000'000);
  }
}

TEST(OnnxGraph, GivesAttributesTheirTypes) {
  OnnxGraph graph("data");
  const Id x = graph.input("x", floats({1}));
  graph.add("F", {x},
            {{"i", std::int64_t{-1}},
             {"f", 0.25F},
             {"s", Sizes{0, -2, 300}},
             {"zero", std::int64_t{0}},
             {"t", std::string("tanh")}},
            floats({1}));
  const ReadOnnx model = read(graph);
  const auto& attributes = model.nodes.at(0).attributes;
  ASSERT_EQ(attributes.size(), 5U);
  EXPECT_EQ(attributes.at("i").type, 2);
  EXPECT_EQ(attributes.at("i").integer, -1);
  EXPECT_EQ(attributes.at("f").type, 1);
  EXPECT_EQ(attributes.at("f").number, 0.25F);
  EXPECT_EQ(attributes.at("s").type, 7);
  EXPECT_EQ(attributes.at("s").integers, (Sizes{0, -2, 300}));
  EXPECT_EQ(attributes.at("t").type, 3);
  EXPECT_EQ(attributes.at("t").text, "tanh");
  EXPECT_EQ(attributes.at("zero").type, 2);
  EXPECT_EQ(attributes.at("zero").integer, 0);
}

TEST(OnnxGraph, NamesAnInputThatIsLeftOutWithNothing) {
  OnnxGraph graph("data");
  const Id x = graph.input("x", floats({1}));
  graph.add("Clip", {x, -1, x}, {}, floats({1}));
  EXPECT_EQ(read(graph).nodes.at(0).inputs, (std::vector<std::string>{"x", "", "x"}));
}

TEST(OnnxGraph, RenamesAnOutputForItsReadersToo) {
  OnnxGraph graph("data");
  const Id x = graph.input("x", floats({4}));
  const Id y = graph.add("Neg", {x}, {}, floats({4}));
  const Id z = graph.add("Abs", {y}, {}, floats({4}));
  graph.output(y, "negative");
  EXPECT_EQ(graph.name(y), "negative");
  const ReadOnnx model = read(graph);
  EXPECT_EQ(model.nodes.at(0).output, "negative");
  EXPECT_EQ(model.nodes.at(1).inputs, std::vector<std::string>{"negative"});
  EXPECT_EQ(model.outputs.size(), 1U);
  EXPECT_EQ(model.outputs.at(0).first, "negative");
  EXPECT_FALSE(model.values.contains("Neg"));
  EXPECT_EQ(model.described.size(), 1U);
  EXPECT_TRUE(model.described.contains(graph.name(z)));
  // And nothing later takes its name.
  EXPECT_EQ(graph.name(graph.add("Neg", {y}, {}, floats({4}), "negative")), "negative_0");
}

TEST(OnnxGraph, ImportsTheOperatorsOfMicrosoftOnlyWhereThereAreSome) {
  const std::pair<std::string, std::int64_t> standard("", 23);
  OnnxGraph graph("data");
  const Id x = graph.input("x", floats({1}));
  graph.add("Neg", {x}, {}, floats({1}));
  EXPECT_EQ(read(graph).opsets, (decltype(ReadOnnx::opsets){standard}));
  graph.add("MatMulNBits", {x}, {}, floats({1}), {}, kContrib);
  graph.add("MatMulNBits", {x}, {}, floats({1}), {}, kContrib);
  const ReadOnnx model = read(graph);
  EXPECT_EQ(model.opsets, (decltype(ReadOnnx::opsets){standard, {std::string(kContrib), 1}}));
  EXPECT_EQ(model.nodes.at(0).domain, "");
  EXPECT_EQ(model.nodes.at(1).domain, kContrib);
}

TEST(OnnxGraph, CarriesMetadata) {
  OnnxGraph graph("data");
  graph.input("x", floats({1}));
  EXPECT_TRUE(read(graph).metadata.empty());
  const std::string bytes = graph.serialize({{"b", "2"}, {"a", ""}});
  EXPECT_EQ(read_onnx(bytes).metadata, (decltype(ReadOnnx::metadata){{"a", ""}, {"b", "2"}}));
  EXPECT_EQ(testing::Proto(bytes).text(3), version());
}

TEST(OnnxGraph, ShowsItsNodes) {
  OnnxGraph graph("data");
  const Id x = graph.input("x", floats({1}));
  const Id y = graph.add("Neg", {x}, {}, floats({1}));
  const Id z = graph.add("Add", {y, x}, {}, floats({1}));
  graph.output(z, "z");
  const auto nodes = graph.nodes();
  ASSERT_EQ(nodes.size(), 2U);
  EXPECT_EQ(nodes[0].op, "Neg");
  EXPECT_EQ(nodes[1].inputs, (std::vector<Id>{y, x}));
  EXPECT_EQ(nodes[1].output, z);
  EXPECT_EQ(graph.inputs(), std::vector<Id>{x});
  EXPECT_EQ(graph.outputs(), std::vector<Id>{z});
}

TEST(OnnxTensorBytes, AreThoseOfTheType) {
  const auto bytes = [](OnnxDtype dtype, Sizes sizes) {
    return stored_bytes({.dtype = dtype, .sizes = std::move(sizes)});
  };
  EXPECT_EQ(bytes(OnnxDtype::kFloat, {3, 5}), 60);
  EXPECT_EQ(bytes(OnnxDtype::kInt32, {3, 5}), 60);
  EXPECT_EQ(bytes(OnnxDtype::kFloat16, {3, 5}), 30);
  EXPECT_EQ(bytes(OnnxDtype::kUint16, {3, 5}), 30);
  EXPECT_EQ(bytes(OnnxDtype::kInt8, {3, 5}), 15);
  EXPECT_EQ(bytes(OnnxDtype::kUint8, {3, 5}), 15);
  EXPECT_EQ(bytes(OnnxDtype::kInt64, {3, 5}), 120);
  EXPECT_EQ(bytes(OnnxDtype::kInt4, {3, 5}), 8);  // over all, not for each row
  EXPECT_EQ(bytes(OnnxDtype::kInt4, {4, 5}), 10);
  EXPECT_EQ(bytes(OnnxDtype::kFloat, {}), 4);  // a scalar
  EXPECT_EQ(bytes(OnnxDtype::kInt4, {}), 1);
  EXPECT_EQ(bytes(OnnxDtype::kFloat, {0, 5}), 0);
}

}  // namespace
}  // namespace diffulex_edge::qnn
