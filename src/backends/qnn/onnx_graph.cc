#include "backends/qnn/onnx_graph.h"

#include <algorithm>
#include <protozero/pbf_writer.hpp>

#include "backends/qnn/onnx_fields.h"
#include "diffulex_edge/version.h"

namespace diffulex_edge::qnn {
namespace {

using protozero::pbf_writer;

// AttributeProto.AttributeType.
constexpr std::int32_t kFloatAttribute = 1;
constexpr std::int32_t kIntAttribute = 2;
constexpr std::int32_t kStringAttribute = 3;
constexpr std::int32_t kIntsAttribute = 7;
constexpr std::int32_t kExternalLocation = 1;  // TensorProto.DataLocation.EXTERNAL

// RMSNormalization came with opset 23, block_size of DequantizeLinear with 21, INT4 with IR version 10.
constexpr std::int64_t kIrVersion = 10;
constexpr std::int64_t kOpset = 23;
constexpr std::int64_t kContribOpset = 1;  // of com.microsoft

std::int64_t element_count(const OnnxType& type) {
  std::int64_t count = 1;
  for (const std::int64_t size : type.sizes) {
    count *= size;
  }
  return count;
}

void add_entry(pbf_writer& writer, protozero::pbf_tag_type tag, std::string_view key, std::string_view value) {
  pbf_writer entry(writer, tag);
  entry.add_string(field::kEntryKey, key.data(), key.size());
  entry.add_string(field::kEntryValue, value.data(), value.size());
}

void add_opset(pbf_writer& writer, std::string_view domain, std::int64_t version) {
  pbf_writer opset(writer, field::kModelOpset);
  opset.add_string(field::kOpsetDomain, domain.data(), domain.size());
  opset.add_int64(field::kOpsetVersion, version);
}

struct AttributeWriter {
  pbf_writer& writer;

  void operator()(std::int64_t value) const {
    writer.add_int64(field::kAttributeInt, value);
    writer.add_enum(field::kAttributeType, kIntAttribute);
  }
  void operator()(float value) const {
    writer.add_float(field::kAttributeFloat, value);
    writer.add_enum(field::kAttributeType, kFloatAttribute);
  }
  void operator()(const std::string& value) const {
    writer.add_bytes(field::kAttributeString, value);
    writer.add_enum(field::kAttributeType, kStringAttribute);
  }
  void operator()(const std::vector<std::int64_t>& values) const {
    for (const std::int64_t value : values) {
      writer.add_int64(field::kAttributeInts, value);
    }
    writer.add_enum(field::kAttributeType, kIntsAttribute);
  }
};

}  // namespace

std::int64_t stored_bytes(const OnnxType& type) {
  const std::int64_t count = element_count(type);
  switch (type.dtype) {
    case OnnxDtype::kInt4:
      return (count + 1) / 2;
    case OnnxDtype::kUint8:
    case OnnxDtype::kInt8:
      return count;
    case OnnxDtype::kUint16:
    case OnnxDtype::kFloat16:
      return 2 * count;
    case OnnxDtype::kInt64:
      return 8 * count;
    case OnnxDtype::kFloat:
    case OnnxDtype::kInt32:
      break;
  }
  return 4 * count;
}

OnnxGraph::Id OnnxGraph::define(OnnxType type, std::string name) {
  values_.push_back({.name = std::move(name), .type = std::move(type)});
  return static_cast<Id>(values_.size() - 1);
}

OnnxGraph::Id OnnxGraph::input(std::string name, OnnxType type) {
  names_.reserve(name);
  inputs_.push_back(define(std::move(type), std::move(name)));
  return inputs_.back();
}

OnnxGraph::Id OnnxGraph::constant(OnnxType type, std::span<const std::byte> bytes, std::string_view name) {
  std::string key = std::to_string(static_cast<std::int32_t>(type.dtype));
  for (const std::int64_t size : type.sizes) {
    key += "," + std::to_string(size);
  }
  key += ":" + std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const auto [position, inserted] = constants_.emplace(std::move(key), 0);
  if (inserted) {
    position->second = define(std::move(type), names_.take(std::string(name)));
    initializers_.push_back({.value = position->second, .data = std::vector(bytes.begin(), bytes.end())});
  }
  return position->second;
}

OnnxGraph::Id OnnxGraph::scalar(float value) {
  return constant({.dtype = OnnxDtype::kFloat, .sizes = {}}, std::as_bytes(std::span(&value, 1)));
}

OnnxGraph::Id OnnxGraph::ints(const std::vector<std::int64_t>& values) {
  return constant({.dtype = OnnxDtype::kInt64, .sizes = {static_cast<std::int64_t>(values.size())}},
                  std::as_bytes(std::span(values)));
}

OnnxGraph::Id OnnxGraph::external(OnnxType type, ExternalData data, std::string_view name) {
  const Id result = define(std::move(type), names_.take(std::string(name)));
  initializers_.push_back({.value = result, .data = data});
  return result;
}

OnnxGraph::Id OnnxGraph::add(std::string_view op, std::vector<Id> inputs, Attributes attributes, OnnxType type,
                             std::string_view name, std::string_view domain) {
  const Id result = define(std::move(type), names_.take(std::string(name.empty() ? op : name)));
  operators_.push_back({.op = std::string(op),
                        .domain = std::string(domain),
                        .inputs = std::move(inputs),
                        .attributes = std::move(attributes),
                        .output = result});
  return result;
}

void OnnxGraph::output(Id value, std::string name) {
  names_.reserve(name);
  values_.at(static_cast<std::size_t>(value)).name = std::move(name);
  outputs_.push_back(value);
}

std::vector<OnnxGraph::NodeView> OnnxGraph::nodes() const {
  std::vector<NodeView> result;
  for (const Operator& node : operators_) {
    result.push_back({.op = node.op, .inputs = node.inputs, .output = node.output});
  }
  return result;
}

std::string OnnxGraph::serialize_node(const Operator& node) const {
  std::string result;
  pbf_writer writer(result);
  for (const Id input : node.inputs) {
    writer.add_string(field::kNodeInput, input < 0 ? std::string() : name(input));
  }
  writer.add_string(field::kNodeOutput, name(node.output));
  writer.add_string(field::kNodeName, name(node.output));
  writer.add_string(field::kNodeOpType, node.op);
  for (const auto& [key, value] : node.attributes) {
    pbf_writer attribute(writer, field::kNodeAttribute);
    attribute.add_string(field::kAttributeName, key);
    std::visit(AttributeWriter{attribute}, value);
  }
  writer.add_string(field::kNodeDomain, node.domain);
  return result;
}

std::string OnnxGraph::serialize_initializer(const Initializer& initializer) const {
  const OnnxType& tensor = type(initializer.value);
  std::string result;
  pbf_writer writer(result);
  for (const std::int64_t size : tensor.sizes) {
    writer.add_int64(field::kTensorDims, size);
  }
  writer.add_enum(field::kTensorDataType, static_cast<std::int32_t>(tensor.dtype));
  writer.add_string(field::kTensorName, name(initializer.value));
  if (const auto* bytes = std::get_if<std::vector<std::byte>>(&initializer.data)) {
    writer.add_bytes(field::kTensorRawData, reinterpret_cast<const char*>(bytes->data()), bytes->size());
    return result;
  }
  const auto& data = std::get<ExternalData>(initializer.data);
  add_entry(writer, field::kTensorExternalData, "location", data_file_);
  add_entry(writer, field::kTensorExternalData, "offset", std::to_string(data.offset));
  add_entry(writer, field::kTensorExternalData, "length", std::to_string(data.bytes));
  writer.add_enum(field::kTensorDataLocation, kExternalLocation);
  return result;
}

std::string OnnxGraph::serialize_value(Id value) const {
  std::string result;
  pbf_writer writer(result);
  writer.add_string(field::kValueInfoName, name(value));
  pbf_writer kind(writer, field::kValueInfoType);
  pbf_writer tensor(kind, field::kTypeTensor);
  tensor.add_enum(field::kTensorTypeElement, static_cast<std::int32_t>(type(value).dtype));
  pbf_writer shape(tensor, field::kTensorTypeShape);
  for (const std::int64_t length : type(value).sizes) {
    pbf_writer dim(shape, field::kShapeDim);
    dim.add_int64(field::kDimSize, length);
  }
  return result;
}

std::string OnnxGraph::serialize_graph() const {
  std::string result;
  pbf_writer writer(result);
  for (const Operator& node : operators_) {
    writer.add_message(field::kGraphNode, serialize_node(node));
  }
  writer.add_string(field::kGraphName, "diffulex_edge");
  for (const Initializer& initializer : initializers_) {
    writer.add_message(field::kGraphInitializer, serialize_initializer(initializer));
  }
  for (const Id value : inputs_) {
    writer.add_message(field::kGraphInput, serialize_value(value));
  }
  for (const Id value : outputs_) {
    writer.add_message(field::kGraphOutput, serialize_value(value));
  }
  for (const Operator& node : operators_) {
    if (std::ranges::find(outputs_, node.output) == outputs_.end()) {
      writer.add_message(field::kGraphValueInfo, serialize_value(node.output));
    }
  }
  return result;
}

std::string OnnxGraph::serialize(const std::map<std::string, std::string>& metadata) const {
  std::string result;
  pbf_writer writer(result);
  writer.add_int64(field::kModelIrVersion, kIrVersion);
  writer.add_string(field::kModelProducer, "diffulex-edge");
  writer.add_string(field::kModelProducerVersion, std::string(version()));
  writer.add_message(field::kModelGraph, serialize_graph());
  add_opset(writer, "", kOpset);
  const auto is_contrib = [](const Operator& node) { return !node.domain.empty(); };
  if (std::ranges::any_of(operators_, is_contrib)) {
    add_opset(writer, "com.microsoft", kContribOpset);
  }
  for (const auto& [key, value] : metadata) {
    add_entry(writer, field::kModelMetadata, key, value);
  }
  return result;
}

}  // namespace diffulex_edge::qnn
