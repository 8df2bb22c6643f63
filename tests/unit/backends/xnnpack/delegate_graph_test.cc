#include "backends/xnnpack/delegate_graph.h"

#include <gtest/gtest.h>

#include <cstring>

#include "support/expect_error.h"

namespace diffulex_edge::xnnpack {
namespace {

template <typename T>
T load(const std::vector<std::byte>& bytes, std::size_t offset) {
  T value{};
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

// The payload's graph, verified; `payload` must outlive it.
const schema::Graph& graph_of(const std::vector<std::byte>& payload) {
  EXPECT_EQ(std::memcmp(payload.data(), "\0\0\0\0XH00", 8), 0);
  EXPECT_EQ(load<std::uint16_t>(payload, 8), 30);
  const auto offset = load<std::uint32_t>(payload, 10);
  const auto size = load<std::uint32_t>(payload, 14);
  const auto constants = load<std::uint32_t>(payload, 18);
  EXPECT_EQ(offset % 16, 0U);
  EXPECT_GE(constants, offset + size);
  EXPECT_EQ(constants % 16, 0U);
  EXPECT_EQ(constants, payload.size());
  const auto* data = reinterpret_cast<const std::uint8_t*>(payload.data()) + offset;
  flatbuffers::Verifier verifier(data, size);
  EXPECT_TRUE(schema::VerifyGraphBuffer(verifier));
  return *schema::GetGraph(data);
}

TEST(DelegateGraph, NumbersArgumentsInTheOrderOfTheirCalls) {
  DelegateGraph graph;
  const XnnId inner = graph.value(Datatype::fp32, {3});
  const XnnId first = graph.external_input(Datatype::fp32, {1, 3});
  const XnnId second = graph.external_input(Datatype::fp16, {2, 3});
  const XnnId output = graph.external_output(Datatype::fp32, {4, 3});
  EXPECT_EQ(graph.dims(output), (std::vector<std::uint32_t>{4, 3}));
  graph.unary(NodeUnion::Sigmoid, first, inner);
  graph.binary(NodeUnion::Add, inner, second, output, 5);
  EXPECT_EQ(graph.node_count(), 2U);
  const auto payload = graph.serialize();
  const schema::Graph& read = graph_of(payload);
  EXPECT_EQ(read.num_externs(), 3U);
  EXPECT_EQ(read.xvalues()->size(), 4U);
  const auto value = [&](XnnId id) { return read.xvalues()->Get(id)->xvalue_union_as_TensorValue(); };
  EXPECT_EQ(value(inner)->external_id(), 0xFFFFFFFFU);
  EXPECT_EQ(value(inner)->flags(), 0U);
  EXPECT_EQ(value(first)->external_id(), 0U);
  EXPECT_EQ(value(first)->flags(), 1U);
  EXPECT_EQ(value(second)->external_id(), 1U);
  EXPECT_EQ(value(second)->datatype(), Datatype::fp16);
  EXPECT_EQ(value(output)->external_id(), 2U);
  EXPECT_EQ(value(output)->flags(), 2U);
  EXPECT_EQ(value(output)->num_dims(), 2U);
  for (XnnId id = 0; id < 4; ++id) {
    EXPECT_EQ(value(id)->id_out(), id);
  }
  ASSERT_EQ(read.xnodes()->size(), 2U);
  const auto* sigmoid = read.xnodes()->Get(0)->xnode_union_as_Sigmoid();
  ASSERT_NE(sigmoid, nullptr);
  EXPECT_EQ(sigmoid->input_id(), first);
  EXPECT_EQ(sigmoid->output_id(), inner);
  const auto* add = read.xnodes()->Get(1)->xnode_union_as_Add();
  ASSERT_NE(add, nullptr);
  EXPECT_EQ(add->input1_id(), inner);
  EXPECT_EQ(add->input2_id(), second);
  EXPECT_EQ(add->output_id(), output);
  EXPECT_EQ(add->flags(), 5U);
  EXPECT_EQ(read.input_ids()->size(), 2U);
  EXPECT_EQ(read.output_ids()->Get(0), 2U);
}

TEST(DelegateGraph, WritesEveryKindOfNode) {
  DelegateGraph graph;
  const XnnId x = graph.external_input(Datatype::fp32, {2, 6});
  const XnnId y = graph.value(Datatype::fp32, {2, 6});
  const XnnId filter = graph.constant_value(Datatype::fp32, {6, 6}, graph.constant("w", 144));
  graph.clamp(x, y, -1.0F, 0.5F);
  graph.fully_connected(x, filter, kNoValue, y);
  graph.reshape(x, y, {0, 3, 2});
  graph.transpose(x, y, {1, 0});
  graph.slice(x, y, {0, 2}, {0, 4});
  for (std::size_t count = 2; count <= 5; ++count) {
    graph.concatenate(std::vector<XnnId>(count, x), y, 1);
  }
  const auto payload = graph.serialize();
  const schema::Graph& read = graph_of(payload);
  const auto& nodes = *read.xnodes();
  ASSERT_EQ(nodes.size(), 9U);
  EXPECT_EQ(nodes.Get(0)->xnode_union_type(), NodeUnion::Clamp);
  EXPECT_EQ(nodes.Get(0)->output_min_max()->output_min(), -1.0F);
  EXPECT_EQ(nodes.Get(0)->output_min_max()->output_max(), 0.5F);
  EXPECT_EQ(nodes.Get(1)->output_min_max(), nullptr);
  const auto* connected = nodes.Get(1)->xnode_union_as_FullyConnected();
  EXPECT_EQ(connected->input1_id(), x);
  EXPECT_EQ(connected->filter_id(), filter);
  EXPECT_EQ(connected->bias_id(), kNoValue);
  EXPECT_EQ(connected->output_id(), y);
  const auto texts = [](const auto* vector) { return std::vector<std::uint32_t>(vector->begin(), vector->end()); };
  EXPECT_EQ(texts(nodes.Get(2)->xnode_union_as_StaticReshape()->new_shape()), (std::vector<std::uint32_t>{0, 3, 2}));
  EXPECT_EQ(nodes.Get(2)->xnode_union_as_StaticReshape()->num_dims(), 3U);
  EXPECT_EQ(texts(nodes.Get(3)->xnode_union_as_StaticTranspose()->perm()), (std::vector<std::uint32_t>{1, 0}));
  EXPECT_EQ(texts(nodes.Get(4)->xnode_union_as_StaticSlice()->offsets()), (std::vector<std::uint32_t>{0, 2}));
  EXPECT_EQ(texts(nodes.Get(4)->xnode_union_as_StaticSlice()->sizes()), (std::vector<std::uint32_t>{0, 4}));
  EXPECT_EQ(nodes.Get(5)->xnode_union_type(), NodeUnion::Concatenate2);
  EXPECT_EQ(nodes.Get(6)->xnode_union_type(), NodeUnion::Concatenate3);
  EXPECT_EQ(nodes.Get(7)->xnode_union_type(), NodeUnion::Concatenate4);
  EXPECT_EQ(nodes.Get(8)->xnode_union_type(), NodeUnion::Concatenate5);
  EXPECT_EQ(nodes.Get(8)->xnode_union_as_Concatenate5()->axis(), 1U);
  for (const std::size_t count : {std::size_t{0}, std::size_t{1}}) {
    testing::expect_error(ErrorCode::kInternal, {"two values or more"},
                          [&] { graph.concatenate(std::vector<XnnId>(count, x), y, 1); });
  }
}

TEST(DelegateGraph, JoinsMoreThanFiveValuesInSteps) {
  DelegateGraph graph;
  const XnnId x = graph.value(Datatype::fp32, {2, 3});
  const XnnId y = graph.value(Datatype::fp32, {2, 21});
  graph.concatenate(std::vector<XnnId>(7, x), y, 1);
  ASSERT_EQ(graph.node_count(), 3U);
  EXPECT_EQ(graph.dims(y + 1), (std::vector<std::uint32_t>{2, 15}));
  EXPECT_EQ(graph.dims(y + 2), (std::vector<std::uint32_t>{2, 6}));
  const auto payload = graph.serialize();
  const auto& nodes = *graph_of(payload).xnodes();
  EXPECT_EQ(nodes.Get(0)->xnode_union_type(), NodeUnion::Concatenate5);
  EXPECT_EQ(nodes.Get(1)->xnode_union_type(), NodeUnion::Concatenate2);
  EXPECT_EQ(nodes.Get(2)->xnode_union_type(), NodeUnion::Concatenate2);
}

TEST(DelegateGraph, NamesItsConstantsBehindAnUnusedEntry) {
  DelegateGraph graph;
  EXPECT_EQ(graph.constant("first", 10), 1U);
  EXPECT_EQ(graph.constant("second", std::uint64_t{1} << 40U), 2U);
  const auto payload = graph.serialize();
  const auto& constants = *graph_of(payload).constant_data();
  ASSERT_EQ(constants.size(), 3U);
  EXPECT_EQ(constants.Get(1)->named_key()->str(), "first");
  EXPECT_EQ(constants.Get(1)->size(), 10U);
  EXPECT_EQ(constants.Get(1)->offset(), UINT64_MAX);
  EXPECT_EQ(constants.Get(2)->size(), std::uint64_t{1} << 40U);
}

TEST(DelegateGraph, ItsSizeDoesNotDependOnScales) {
  DelegateGraph graph;
  const XnnId weight = graph.constant_value(Datatype::qcint8, {3, 4}, graph.constant("w", 12),
                                            PerChannelScales{.scales = {1.0F, 1.0F, 1.0F}});
  const XnnId groups = graph.constant_value(Datatype::qbint4, {3, 64}, graph.constant("g", 96),
                                            PerGroupScales{.group_size = 32, .constant_index = 3, .count = 6});
  const XnnId tokens = graph.quantized_value(Datatype::qdint8, {1, 4}, PerToken{});
  const std::size_t before = graph.serialize().size();
  graph.channel_scales(weight) = {0.0F, 0.25F, 3e38F};
  const auto payload = graph.serialize();
  EXPECT_EQ(payload.size(), before);
  const schema::Graph& read = graph_of(payload);
  const auto value = [&](XnnId id) { return read.xvalues()->Get(id)->xvalue_union_as_QuantizedTensorValue(); };
  const auto* channel = value(weight)->quant_params_as_PerChannelQuant();
  ASSERT_NE(channel, nullptr);
  EXPECT_EQ(channel->scale()->Get(1), 0.25F);
  EXPECT_EQ(channel->channel_dim(), 0);
  const auto* group = value(groups)->quant_params_as_PerChannelGroupQuant();
  ASSERT_NE(group, nullptr);
  EXPECT_EQ(group->group_size(), 32);
  EXPECT_EQ(group->scale_buffer_idx(), 3U);
  EXPECT_EQ(group->num_scales(), 6U);
  const auto* token = value(tokens)->quant_params_as_PerTokenDynamicQuant();
  ASSERT_NE(token, nullptr);
  EXPECT_EQ(token->num_nonbatch_dims(), 1);
}

}  // namespace
}  // namespace diffulex_edge::xnnpack
