// An XNNPACK subgraph under construction, in the terms of schema/xnnpack_graph.fbs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "diffulex_edge/quantization.h"
#include "quant/affine_scale.h"
#include "xnnpack_graph_generated.h"

namespace diffulex_edge::xnnpack {

using schema::Datatype;
using schema::NodeUnion;

using XnnId = std::uint32_t;
inline constexpr XnnId kNoValue = 0xFFFFFFFF;
inline constexpr std::uint32_t kTransposeB = 1;  // flag of BatchMatrixMultiply: b is [..., n, k]

// How a quantized value's integers are to be read.
struct PerChannelScales {
  std::vector<float> scales;  // sized from the start, filled while weights are streamed
};
struct PerGroupScales {
  std::uint32_t group_size = 0;
  std::uint32_t constant_index = 0;  // bfloat16 scales, [channels, groups]
  std::uint32_t count = 0;
};
struct PerToken {};
using ValueQuantization = std::variant<std::monostate, PerChannelScales, PerGroupScales, PerToken, AffineScale>;

class DelegateGraph {
 public:
  // Names `size` bytes of the program's named data. The result indexes the graph's constants. Only for what XNNPACK
  // packs, filters and biases of fully-connected nodes: where its weight cache is on, ExecuTorch's backend frees named
  // data when the nodes have been prepared. Other constants are inputs.
  std::uint32_t constant(std::string key, std::uint64_t size);
  // Another name of the same length.
  void rename_constant(std::uint32_t index, std::string key);

  // `dims` are upper bounds where the sequence is among them.
  XnnId value(Datatype type, std::vector<std::uint32_t> dims);
  XnnId quantized_value(Datatype type, std::vector<std::uint32_t> dims, ValueQuantization quantization);
  XnnId constant_value(Datatype type, std::vector<std::uint32_t> dims, std::uint32_t constant_index,
                       ValueQuantization quantization = {});
  // Arguments of the delegate call, numbered in the order of these calls.
  XnnId external_input(Datatype type, std::vector<std::uint32_t> dims, ValueQuantization quantization = {});
  XnnId external_output(Datatype type, std::vector<std::uint32_t> dims, ValueQuantization quantization = {});

  void unary(NodeUnion kind, XnnId input, XnnId output);
  void clamp(XnnId input, XnnId output, float min, float max);
  void binary(NodeUnion kind, XnnId a, XnnId b, XnnId output, std::uint32_t flags = 0);
  // Of an image [count, height, 1, channels]: the greatest of each column, at least `least`, [count, 1, 1, channels].
  void column_maximum(XnnId input, XnnId output, float least);
  void fully_connected(XnnId input, XnnId filter, XnnId bias, XnnId output);
  void reshape(XnnId input, XnnId output, std::vector<std::uint32_t> shape);  // one 0: inferred
  void transpose(XnnId input, XnnId output, std::vector<std::uint32_t> axes);
  void slice(XnnId input, XnnId output, std::vector<std::uint32_t> offsets, std::vector<std::uint32_t> sizes);
  void concatenate(std::vector<XnnId> inputs, XnnId output, std::uint32_t axis);  // 2 or more

  const std::vector<std::uint32_t>& dims(XnnId value) const { return values_.at(value).dims; }
  // The scales of a per-channel value, to be filled in place.
  std::vector<float>& channel_scales(XnnId value);
  std::size_t node_count() const { return nodes_.size(); }

  // The delegate's payload: header and flatbuffer. Its size does not depend on the values of scales.
  std::vector<std::byte> serialize() const;

 private:
  struct ValueEntry {
    Datatype type = Datatype::invalid;
    std::vector<std::uint32_t> dims;
    std::uint32_t constant_index = 0;
    std::uint32_t external_id = 0xFFFFFFFF;
    std::uint32_t flags = 0;
    ValueQuantization quantization;
  };
  struct NodeEntry {
    NodeUnion kind = NodeUnion::NONE;
    std::vector<XnnId> inputs;
    XnnId output = kNoValue;
    std::uint32_t flags = 0;
    std::vector<std::uint32_t> shape;  // new shape, permutation, offsets, or one axis
    std::vector<std::uint32_t> sizes;
    std::optional<std::pair<float, float>> min_max;
  };
  struct Constant {
    std::string key;
    std::uint64_t size = 0;
  };

  XnnId append(ValueEntry entry);
  XnnId concatenated(const std::vector<XnnId>& inputs, std::uint32_t axis);
  flatbuffers::Offset<schema::Value> serialize_value(flatbuffers::FlatBufferBuilder& builder, XnnId id) const;
  static flatbuffers::Offset<void> serialize_node(flatbuffers::FlatBufferBuilder& builder, const NodeEntry& node);

  std::vector<ValueEntry> values_;
  std::vector<NodeEntry> nodes_;
  std::vector<Constant> constants_;
  std::vector<XnnId> inputs_;
  std::vector<XnnId> outputs_;
  std::uint32_t externals_ = 0;
};

}  // namespace diffulex_edge::xnnpack
