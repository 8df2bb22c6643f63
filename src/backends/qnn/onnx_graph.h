// One ONNX graph under construction, and its protocol buffer. Messages and field numbers: onnx.proto of ONNX.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "core/unique_names.h"

namespace diffulex_edge::qnn {

// The values are those of onnx.proto's TensorProto.DataType.
enum class OnnxDtype : std::int32_t {
  kFloat = 1,
  kUint8 = 2,
  kInt8 = 3,
  kUint16 = 4,
  kInt32 = 6,
  kInt64 = 7,
  kFloat16 = 10,
  kInt4 = 22,
};

struct OnnxType {
  OnnxDtype dtype = OnnxDtype::kFloat;
  std::vector<std::int64_t> sizes;  // empty: a scalar
};

// Bytes of a tensor as ONNX stores it; INT4 takes two to a byte.
std::int64_t stored_bytes(const OnnxType& type);

// A place in the file of external data.
struct ExternalData {
  std::int64_t offset = 0;
  std::int64_t bytes = 0;
};

class OnnxGraph {
 public:
  using Id = std::int32_t;
  using Attribute = std::variant<std::int64_t, float, std::string, std::vector<std::int64_t>>;
  using Attributes = std::vector<std::pair<std::string, Attribute>>;

  // `data_file` is the name of the file of external data, beside the model's own.
  explicit OnnxGraph(std::string data_file) : data_file_(std::move(data_file)) {}

  Id input(std::string name, OnnxType type);
  // No value is called so but the input or output to come.
  void reserve(const std::string& name) { names_.reserve(name); }
  // Data in the model itself, little-endian. Equal ones share one tensor.
  Id constant(OnnxType type, std::span<const std::byte> bytes, std::string_view name = "c");
  Id scalar(float value);
  Id ints(const std::vector<std::int64_t>& values);
  Id external(OnnxType type, ExternalData data, std::string_view name);
  // An operator with one output. `name` is a wish: a number is added where it is taken. A missing optional input is -1.
  Id add(std::string_view op, std::vector<Id> inputs, Attributes attributes, OnnxType type, std::string_view name = {},
         std::string_view domain = {});
  // `value`, which an operator made, becomes an output under that name.
  void output(Id value, std::string name);

  const OnnxType& type(Id value) const { return values_.at(static_cast<std::size_t>(value)).type; }
  const std::string& name(Id value) const { return values_.at(static_cast<std::size_t>(value)).name; }

  struct NodeView {
    std::string op;
    std::vector<Id> inputs;
    Id output = 0;
  };
  // In order of execution.
  std::vector<NodeView> nodes() const;
  const std::vector<Id>& inputs() const { return inputs_; }
  const std::vector<Id>& outputs() const { return outputs_; }

  // A ModelProto. `metadata` becomes metadata_props.
  std::string serialize(const std::map<std::string, std::string>& metadata) const;

 private:
  struct Value {
    std::string name;
    OnnxType type;
  };
  struct Operator {
    std::string op;
    std::string domain;
    std::vector<Id> inputs;
    Attributes attributes;
    Id output = 0;
  };
  struct Initializer {
    Id value = 0;
    std::variant<std::vector<std::byte>, ExternalData> data;
  };

  Id define(OnnxType type, std::string name);
  std::string serialize_node(const Operator& node) const;
  std::string serialize_initializer(const Initializer& initializer) const;
  std::string serialize_value(Id value) const;
  std::string serialize_graph() const;

  std::string data_file_;
  std::vector<Value> values_;
  std::vector<Operator> operators_;
  std::vector<Initializer> initializers_;
  std::vector<Id> inputs_;
  std::vector<Id> outputs_;
  UniqueNames names_;
  std::map<std::string, Id> constants_;  // by type and bytes
};

}  // namespace diffulex_edge::qnn
