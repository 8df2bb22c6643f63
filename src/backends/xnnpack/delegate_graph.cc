#include "backends/xnnpack/delegate_graph.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "diffulex_edge/error.h"
#include "quant/affine_scale.h"

namespace diffulex_edge::xnnpack {
namespace {

constexpr std::uint32_t kExternalInput = 1;
constexpr std::uint32_t kExternalOutput = 2;
constexpr std::uint64_t kNamed = std::numeric_limits<std::uint64_t>::max();

void put(std::vector<std::byte>& bytes, std::size_t offset, const void* data, std::size_t size) {
  std::memcpy(bytes.data() + offset, data, size);
}

// Offsets 0..31: four zero bytes, "XH00", u16 header length, u32 offset and size of the flatbuffer, u32 offset and u64
// size of inline constants (none: all of ours are named data).
std::vector<std::byte> with_header(const std::uint8_t* flatbuffer, std::uint32_t size) {
  constexpr std::uint16_t kHeaderLength = 30;
  constexpr std::uint32_t kFlatbufferOffset = 32;
  const std::uint32_t constants_offset = kFlatbufferOffset + (size + 15) / 16 * 16;
  std::vector<std::byte> payload(constants_offset);
  put(payload, 4, "XH00", 4);
  put(payload, 8, &kHeaderLength, sizeof(kHeaderLength));
  put(payload, 10, &kFlatbufferOffset, sizeof(kFlatbufferOffset));
  put(payload, 14, &size, sizeof(size));
  put(payload, 18, &constants_offset, sizeof(constants_offset));
  put(payload, kFlatbufferOffset, flatbuffer, size);
  return payload;
}

}  // namespace

std::uint32_t DelegateGraph::constant(std::string key, std::uint64_t size) {
  constants_.push_back({.key = std::move(key), .size = size});
  return static_cast<std::uint32_t>(constants_.size());  // entry 0 is the format's "no constant"
}

void DelegateGraph::rename_constant(std::uint32_t index, std::string key) {
  constants_.at(index - 1).key = std::move(key);
}

XnnId DelegateGraph::append(ValueEntry entry) {
  values_.push_back(std::move(entry));
  return static_cast<XnnId>(values_.size() - 1);
}

XnnId DelegateGraph::value(Datatype type, std::vector<std::uint32_t> dims) {
  return append({.type = type, .dims = std::move(dims)});
}

XnnId DelegateGraph::quantized_value(Datatype type, std::vector<std::uint32_t> dims, ValueQuantization quantization) {
  return append({.type = type, .dims = std::move(dims), .quantization = std::move(quantization)});
}

XnnId DelegateGraph::constant_value(Datatype type, std::vector<std::uint32_t> dims, std::uint32_t constant_index,
                                    ValueQuantization quantization) {
  return append({.type = type,
                 .dims = std::move(dims),
                 .constant_index = constant_index,
                 .quantization = std::move(quantization)});
}

XnnId DelegateGraph::external_input(Datatype type, std::vector<std::uint32_t> dims, ValueQuantization quantization) {
  inputs_.push_back(externals_);
  return append({.type = type,
                 .dims = std::move(dims),
                 .external_id = externals_++,
                 .flags = kExternalInput,
                 .quantization = std::move(quantization)});
}

XnnId DelegateGraph::external_output(Datatype type, std::vector<std::uint32_t> dims, ValueQuantization quantization) {
  outputs_.push_back(externals_);
  return append({.type = type,
                 .dims = std::move(dims),
                 .external_id = externals_++,
                 .flags = kExternalOutput,
                 .quantization = std::move(quantization)});
}

void DelegateGraph::unary(NodeUnion kind, XnnId input, XnnId output) {
  nodes_.push_back({.kind = kind, .inputs = {input}, .output = output});
}

void DelegateGraph::clamp(XnnId input, XnnId output, float min, float max) {
  nodes_.push_back({.kind = NodeUnion::Clamp, .inputs = {input}, .output = output, .min_max = std::pair{min, max}});
}

void DelegateGraph::binary(NodeUnion kind, XnnId a, XnnId b, XnnId output, std::uint32_t flags) {
  nodes_.push_back({.kind = kind, .inputs = {a, b}, .output = output, .flags = flags});
}

void DelegateGraph::column_maximum(XnnId input, XnnId output, float least) {
  nodes_.push_back({.kind = NodeUnion::MaxPooling2d,
                    .inputs = {input},
                    .output = output,
                    .sizes = {dims(input).at(1), 1},
                    .min_max = std::pair{least, std::numeric_limits<float>::max()}});
}

void DelegateGraph::fully_connected(XnnId input, XnnId filter, XnnId bias, XnnId output) {
  nodes_.push_back({.kind = NodeUnion::FullyConnected, .inputs = {input, filter, bias}, .output = output});
}

void DelegateGraph::reshape(XnnId input, XnnId output, std::vector<std::uint32_t> shape) {
  nodes_.push_back({.kind = NodeUnion::StaticReshape, .inputs = {input}, .output = output, .shape = std::move(shape)});
}

void DelegateGraph::transpose(XnnId input, XnnId output, std::vector<std::uint32_t> axes) {
  nodes_.push_back({.kind = NodeUnion::StaticTranspose, .inputs = {input}, .output = output, .shape = std::move(axes)});
}

void DelegateGraph::slice(XnnId input, XnnId output, std::vector<std::uint32_t> offsets,
                          std::vector<std::uint32_t> sizes) {
  nodes_.push_back({.kind = NodeUnion::StaticSlice,
                    .inputs = {input},
                    .output = output,
                    .shape = std::move(offsets),
                    .sizes = std::move(sizes)});
}

// XNNPACK joins up to five values at once: of more, five at a time, until that many are left.
void DelegateGraph::concatenate(std::vector<XnnId> inputs, XnnId output, std::uint32_t axis) {
  constexpr std::array kKinds = {NodeUnion::Concatenate2, NodeUnion::Concatenate3, NodeUnion::Concatenate4,
                                 NodeUnion::Concatenate5};
  constexpr std::size_t kMost = 5;
  if (inputs.size() < 2) {
    throw Error(ErrorCode::kInternal, "concat", "joins two values or more");
  }
  while (inputs.size() > kMost) {
    std::vector<XnnId> joined;
    for (std::size_t begin = 0; begin < inputs.size(); begin += kMost) {
      const auto first = inputs.begin() + static_cast<std::ptrdiff_t>(begin);
      const auto last = inputs.begin() + static_cast<std::ptrdiff_t>(std::min(begin + kMost, inputs.size()));
      joined.push_back(concatenated({first, last}, axis));
    }
    inputs = std::move(joined);
  }
  nodes_.push_back({.kind = kKinds.at(inputs.size() - 2), .inputs = inputs, .output = output, .shape = {axis}});
}

XnnId DelegateGraph::concatenated(const std::vector<XnnId>& inputs, std::uint32_t axis) {
  if (inputs.size() == 1) {
    return inputs.front();
  }
  std::vector<std::uint32_t> sizes = dims(inputs.front());
  sizes.at(axis) = 0;
  for (const XnnId input : inputs) {
    sizes.at(axis) += dims(input).at(axis);
  }
  const XnnId output = value(values_.at(inputs.front()).type, std::move(sizes));
  concatenate(inputs, output, axis);
  return output;
}

std::vector<float>& DelegateGraph::channel_scales(XnnId value) {
  return std::get<PerChannelScales>(values_.at(value).quantization).scales;
}

flatbuffers::Offset<schema::Value> DelegateGraph::serialize_value(flatbuffers::FlatBufferBuilder& builder,
                                                                  XnnId id) const {
  const ValueEntry& entry = values_[id];
  const auto tensor =
      schema::CreateTensorValueDirect(builder, entry.type, static_cast<std::uint32_t>(entry.dims.size()), &entry.dims,
                                      entry.constant_index, entry.external_id, entry.flags, id);
  schema::QuantParams kind = schema::QuantParams::NONE;
  flatbuffers::Offset<void> quantization;
  if (const auto* channel = std::get_if<PerChannelScales>(&entry.quantization)) {
    kind = schema::QuantParams::PerChannelQuant;
    quantization = schema::CreatePerChannelQuantDirect(builder, &channel->scales, 0).Union();
  } else if (const auto* group = std::get_if<PerGroupScales>(&entry.quantization)) {
    kind = schema::QuantParams::PerChannelGroupQuant;
    quantization = schema::CreatePerChannelGroupQuant(builder, 0, 0, static_cast<std::int32_t>(group->group_size),
                                                      group->constant_index, group->count)
                       .Union();
  } else if (std::holds_alternative<PerToken>(entry.quantization)) {
    kind = schema::QuantParams::PerTokenDynamicQuant;
    quantization = schema::CreatePerTokenDynamicQuant(builder, 1).Union();
  } else if (const auto* affine = std::get_if<AffineScale>(&entry.quantization)) {
    kind = schema::QuantParams::PerTensorQuant;
    quantization = schema::CreatePerTensorQuant(builder, affine->scale, affine->zero_point).Union();
  } else {
    return schema::CreateValue(builder, schema::ValueUnion::TensorValue, tensor.Union());
  }
  return schema::CreateValue(builder, schema::ValueUnion::QuantizedTensorValue,
                             schema::CreateQuantizedTensorValue(builder, tensor, kind, quantization).Union());
}

flatbuffers::Offset<void> DelegateGraph::serialize_node(flatbuffers::FlatBufferBuilder& builder,
                                                        const NodeEntry& node) {
  const auto input = [&](std::size_t index) { return index < node.inputs.size() ? node.inputs[index] : 0; };
  const auto rank = static_cast<std::uint32_t>(node.shape.size());
  switch (node.kind) {
    case NodeUnion::FullyConnected:
      return schema::CreateFullyConnected(builder, input(0), input(1), input(2), node.output, node.flags).Union();
    case NodeUnion::StaticTranspose:
      return schema::CreateStaticTransposeDirect(builder, rank, &node.shape, input(0), node.output, node.flags).Union();
    case NodeUnion::StaticReshape:
      return schema::CreateStaticReshapeDirect(builder, rank, &node.shape, input(0), node.output, node.flags).Union();
    case NodeUnion::StaticSlice:
      return schema::CreateStaticSliceDirect(builder, rank, &node.shape, &node.sizes, input(0), node.output, node.flags)
          .Union();
    case NodeUnion::MaxPooling2d: {
      const std::uint32_t height = node.sizes.at(0);
      const std::uint32_t width = node.sizes.at(1);
      return schema::CreateNodePooling2d(builder, 0, 0, 0, 0, height, width, height, width, 1, 1, input(0), node.output,
                                         node.flags)
          .Union();
    }
    case NodeUnion::Concatenate2:
    case NodeUnion::Concatenate3:
    case NodeUnion::Concatenate4:
    case NodeUnion::Concatenate5:
      return schema::CreateNodeConcatenate(builder, node.shape.at(0), input(0), input(1), input(2), input(3),
                                           node.output, node.flags, input(4))
          .Union();
    default:
      break;
  }
  if (node.inputs.size() == 2) {
    return schema::CreateNode2x1(builder, input(0), input(1), node.output, node.flags).Union();
  }
  return schema::CreateNode1x1(builder, input(0), node.output, node.flags).Union();
}

std::vector<std::byte> DelegateGraph::serialize() const {
  flatbuffers::FlatBufferBuilder builder;
  std::vector<flatbuffers::Offset<schema::ConstantData>> constants = {
      schema::CreateConstantDataDirect(builder, kNamed, 0, "")};
  for (const Constant& constant : constants_) {
    constants.push_back(schema::CreateConstantDataDirect(builder, kNamed, constant.size, constant.key.c_str()));
  }
  std::vector<flatbuffers::Offset<schema::Value>> values;
  for (XnnId id = 0; id < values_.size(); ++id) {
    values.push_back(serialize_value(builder, id));
  }
  std::vector<flatbuffers::Offset<schema::Node>> nodes;
  for (const NodeEntry& entry : nodes_) {
    const auto node = serialize_node(builder, entry);
    flatbuffers::Offset<schema::OutputMinMax> min_max;
    if (entry.min_max) {
      min_max = schema::CreateOutputMinMax(builder, entry.min_max->first, entry.min_max->second);
    }
    nodes.push_back(schema::CreateNode(builder, entry.kind, node, static_cast<std::uint32_t>(nodes.size()), min_max));
  }
  schema::FinishGraphBuffer(
      builder, schema::CreateGraphDirect(builder, "0", &nodes, &values, externals_, &inputs_, &outputs_, &constants));
  return with_header(builder.GetBufferPointer(), builder.GetSize());
}

}  // namespace diffulex_edge::xnnpack
