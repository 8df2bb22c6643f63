// An ONNX model, read back by the field numbers of onnx.proto: what a test looks at.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "support/mil_reader.h"

namespace diffulex_edge::testing {

// Numbers of TensorProto.DataType.
enum OnnxNumber : std::int64_t {
  kOnnxFloat = 1,
  kOnnxUint8 = 2,
  kOnnxInt8 = 3,
  kOnnxUint16 = 4,
  kOnnxInt32 = 6,
  kOnnxInt64 = 7,
  kOnnxFloat16 = 10,
  kOnnxInt4 = 22,
};

// A repeated field of integers that is not packed.
inline std::vector<std::int64_t> unpacked_numbers(const std::string& bytes, std::uint32_t tag) {
  std::vector<std::int64_t> result;
  for (protozero::pbf_reader reader(bytes); reader.next();) {
    if (reader.tag() == tag) {
      result.push_back(reader.get_int64());
    } else {
      reader.skip();
    }
  }
  return result;
}

// One of the four has something in it, as `type` says.
struct OnnxAttribute {
  std::int64_t type = 0;  // AttributeProto.AttributeType: 1 float, 2 int, 3 string, 7 ints
  float number = 0.0F;
  std::int64_t integer = 0;
  std::string text;
  std::vector<std::int64_t> integers;
};

inline std::pair<std::string, OnnxAttribute> read_attribute(const std::string& bytes) {
  const Proto message(bytes);
  OnnxAttribute attribute{.type = message.number(20), .text = {}, .integers = {}};
  std::set<std::uint32_t> tags = message.tags();
  tags.erase(1);
  tags.erase(20);
  if (attribute.type == 1) {
    EXPECT_EQ(tags, std::set<std::uint32_t>{2});
    protozero::pbf_reader reader(bytes);
    reader.next(2);
    attribute.number = reader.get_float();
  } else if (attribute.type == 2) {
    EXPECT_EQ(tags, std::set<std::uint32_t>{3});
    attribute.integer = message.number(3);
  } else if (attribute.type == 3) {
    EXPECT_EQ(tags, std::set<std::uint32_t>{4});
    attribute.text = message.text(4);
  } else {
    EXPECT_EQ(attribute.type, 7);
    EXPECT_EQ(tags, std::set<std::uint32_t>{8});
    attribute.integers = unpacked_numbers(bytes, 8);
  }
  return {message.text(1), attribute};
}

struct OnnxNode {
  std::string op;
  std::string domain;
  std::vector<std::string> inputs;
  std::string output;
  std::map<std::string, OnnxAttribute> attributes;
};

inline OnnxNode read_node(const std::string& bytes) {
  const Proto message(bytes);
  OnnxNode node{.op = message.text(4),
                .domain = message.text(7),
                .inputs = message.all(1),
                .output = message.text(2),
                .attributes = {}};
  EXPECT_EQ(message.text(3), node.output);
  for (const std::string& attribute : message.all(5)) {
    EXPECT_TRUE(node.attributes.insert(read_attribute(attribute)).second);
  }
  return node;
}

struct OnnxTensor {
  std::int64_t dtype = 0;
  std::vector<std::int64_t> sizes;
  std::string raw;       // in the model
  std::string location;  // or in this file
  std::int64_t offset = -1;
  std::int64_t length = -1;
};

inline std::pair<std::string, OnnxTensor> read_tensor(const std::string& bytes) {
  const Proto message(bytes);
  OnnxTensor tensor{.dtype = message.number(2), .sizes = unpacked_numbers(bytes, 1)};
  if (!message.has(13)) {
    EXPECT_FALSE(message.has(14));
    tensor.raw = message.text(9);
    return {message.text(8), tensor};
  }
  EXPECT_EQ(message.number(14), 1);  // EXTERNAL
  EXPECT_FALSE(message.has(9));
  const auto entries = message.entries(13);
  const std::map<std::string, std::string> map(entries.begin(), entries.end());
  EXPECT_EQ(entries.size(), 3U);
  EXPECT_EQ(map.size(), 3U);
  tensor.location = map.at("location");
  tensor.offset = std::stoll(map.at("offset"));
  tensor.length = std::stoll(map.at("length"));
  return {message.text(8), tensor};
}

struct OnnxValue {
  std::int64_t dtype = 0;
  std::vector<std::int64_t> sizes;

  friend bool operator==(const OnnxValue&, const OnnxValue&) = default;
};

inline std::pair<std::string, OnnxValue> read_value(const std::string& bytes) {
  const Proto message(bytes);
  const Proto tensor = message.at(2).at(1);
  OnnxValue value{.dtype = tensor.number(1), .sizes = {}};
  for (const std::string& dimension : tensor.at(2).all(1)) {
    value.sizes.push_back(Proto(dimension).number(1));
  }
  return {message.text(1), value};
}

struct ReadOnnx {
  std::int64_t ir_version = 0;
  std::string producer;
  std::vector<std::pair<std::string, std::int64_t>> opsets;  // domain, version
  std::vector<std::pair<std::string, std::string>> metadata;
  std::vector<OnnxNode> nodes;
  std::map<std::string, OnnxTensor> tensors;
  std::vector<std::pair<std::string, OnnxValue>> inputs;
  std::vector<std::pair<std::string, OnnxValue>> outputs;
  std::map<std::string, OnnxValue> described;  // value_info
  std::map<std::string, OnnxValue> values;     // every value and tensor

  std::map<std::string, std::size_t> made_by;            // a value: its node
  std::map<std::string, std::set<std::size_t>> read_by;  // and those that read it

  const OnnxNode* maker(const std::string& value) const {
    const auto found = made_by.find(value);
    return found == made_by.end() ? nullptr : &nodes[found->second];
  }
  const OnnxNode& at(const std::string& value) const {
    const OnnxNode* found = maker(value);
    if (found == nullptr) {
      throw std::out_of_range(value);
    }
    return *found;
  }
  std::vector<const OnnxNode*> readers(const std::string& value) const {
    std::vector<const OnnxNode*> result;
    if (const auto found = read_by.find(value); found != read_by.end()) {
      for (const std::size_t index : found->second) {
        result.push_back(&nodes[index]);
      }
    }
    return result;
  }
  std::vector<const OnnxNode*> of_op(const std::string& op) const {
    std::vector<const OnnxNode*> result;
    for (const OnnxNode& node : nodes) {
      if (node.op == op) {
        result.push_back(&node);
      }
    }
    return result;
  }
};

// Reads a model and checks what holds for every one: names are used once, values exist before they are read, every
// value but the outputs is described.
inline ReadOnnx read_onnx(const std::string& bytes) {
  const Proto message(bytes);
  ReadOnnx model{.ir_version = message.number(1), .producer = message.text(2)};
  for (const std::string& opset : message.all(8)) {
    model.opsets.emplace_back(Proto(opset).text(1), Proto(opset).number(2));
  }
  model.metadata = message.entries(14);
  const Proto graph = message.at(7);
  EXPECT_FALSE(graph.text(2).empty());
  const auto define = [&](const std::string& name, const OnnxValue& value) {
    EXPECT_FALSE(name.empty());
    EXPECT_TRUE(model.values.emplace(name, value).second) << name << " is defined twice";
  };
  for (const std::string& bytes_of_tensor : graph.all(5)) {
    auto [name, tensor] = read_tensor(bytes_of_tensor);
    define(name, {.dtype = tensor.dtype, .sizes = tensor.sizes});
    model.tensors.emplace(name, std::move(tensor));
  }
  for (const std::string& input : graph.all(11)) {
    model.inputs.push_back(read_value(input));
    define(model.inputs.back().first, model.inputs.back().second);
  }
  std::map<std::string, OnnxValue> made;
  for (const std::string& output : graph.all(12)) {
    model.outputs.push_back(read_value(output));
    made.insert(model.outputs.back());
  }
  for (const std::string& value : graph.all(13)) {
    const auto described = read_value(value);
    EXPECT_TRUE(model.described.insert(described).second) << described.first;
    EXPECT_TRUE(made.insert(described).second) << described.first << " is an output and is described";
  }
  for (const std::string& node_bytes : graph.all(1)) {
    model.nodes.push_back(read_node(node_bytes));
    const OnnxNode& node = model.nodes.back();
    for (const std::string& input : node.inputs) {
      EXPECT_TRUE(input.empty() || model.values.contains(input)) << node.op << " reads " << input << " too early";
      model.read_by[input].insert(model.nodes.size() - 1);
    }
    model.made_by[node.output] = model.nodes.size() - 1;
    EXPECT_TRUE(made.contains(node.output)) << node.output << " is not described";
    define(node.output, made[node.output]);
  }
  EXPECT_EQ(made.size(), model.nodes.size());
  return model;
}

}  // namespace diffulex_edge::testing
