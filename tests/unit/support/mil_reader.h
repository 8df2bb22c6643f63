// Protocol buffers of Core ML, read back by the field numbers of coremltools' MIL.proto: what a test looks at.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <protozero/pbf_reader.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace diffulex_edge::testing {

// One message: its fields in any order.
class Proto {
 public:
  explicit Proto(std::string bytes) : bytes_(std::move(bytes)) {}

  const std::string& bytes() const { return bytes_; }
  std::set<std::uint32_t> tags() const {
    std::set<std::uint32_t> result;
    for (protozero::pbf_reader reader(bytes_); reader.next(); reader.skip()) {
      result.insert(reader.tag());
    }
    return result;
  }
  bool has(std::uint32_t tag) const { return tags().contains(tag); }
  // Every occurrence of a string, bytes or message.
  std::vector<std::string> all(std::uint32_t tag) const {
    std::vector<std::string> result;
    for (protozero::pbf_reader reader(bytes_); reader.next();) {
      if (reader.tag() == tag) {
        result.push_back(reader.get_string());
      } else {
        reader.skip();
      }
    }
    return result;
  }
  // The one there is.
  std::string text(std::uint32_t tag) const {
    const std::vector<std::string> found = all(tag);
    EXPECT_EQ(found.size(), 1U) << "field " << tag;
    return found.empty() ? std::string() : found.front();
  }
  Proto at(std::uint32_t tag) const { return Proto(text(tag)); }
  std::int64_t number(std::uint32_t tag) const {
    std::vector<std::int64_t> found;
    for (protozero::pbf_reader reader(bytes_); reader.next();) {
      if (reader.tag() == tag) {
        found.push_back(reader.get_int64());
      } else {
        reader.skip();
      }
    }
    EXPECT_EQ(found.size(), 1U) << "field " << tag;
    return found.empty() ? -1 : found.front();
  }
  // A packed field of integers.
  std::vector<std::int64_t> numbers(std::uint32_t tag) const {
    protozero::pbf_reader reader(bytes_);
    if (!reader.next(tag)) {
      return {};
    }
    const auto range = reader.get_packed_int64();
    return {range.begin(), range.end()};
  }
  std::vector<float> floats(std::uint32_t tag) const {
    protozero::pbf_reader reader(bytes_);
    if (!reader.next(tag)) {
      return {};
    }
    const auto range = reader.get_packed_float();
    return {range.begin(), range.end()};
  }
  // A map field: entries {1: key, 2: value}.
  std::vector<std::pair<std::string, std::string>> entries(std::uint32_t tag) const {
    std::vector<std::pair<std::string, std::string>> result;
    for (const std::string& entry : all(tag)) {
      result.emplace_back(Proto(entry).text(1), Proto(entry).text(2));
    }
    return result;
  }

 private:
  std::string bytes_;
};

struct ReadType {
  std::int64_t dtype = 0;
  std::vector<std::int64_t> sizes;  // -1: unknown

  friend bool operator==(const ReadType&, const ReadType&) = default;
};

// ValueType
inline ReadType read_type(const Proto& message) {
  const Proto tensor = message.at(1);
  ReadType type{.dtype = tensor.number(1), .sizes = {}};
  for (const std::string& bytes : tensor.all(3)) {
    const Proto dimension(bytes);
    if (dimension.has(2)) {
      EXPECT_EQ(dimension.tags().size(), 1U);
      EXPECT_EQ(dimension.text(2), "");
      type.sizes.push_back(-1);
    } else {
      type.sizes.push_back(dimension.at(1).number(1));
    }
  }
  EXPECT_EQ(tensor.number(2), static_cast<std::int64_t>(type.sizes.size()));
  return type;
}

// Value: one of the vectors has something in it, or `file` is named.
struct ReadLiteral {
  ReadType type;
  std::vector<float> floats;
  std::vector<std::int64_t> ints;
  std::vector<std::int64_t> bools;
  std::vector<std::string> strings;
  std::string bytes;
  std::string file;
  std::int64_t offset = 0;
};

inline ReadLiteral read_literal(const Proto& message) {
  ReadLiteral literal{.type = read_type(message.at(2))};
  if (message.has(5)) {
    EXPECT_FALSE(message.has(3));
    literal.file = message.at(5).text(1);
    literal.offset = message.at(5).number(2);
    return literal;
  }
  const Proto value = message.at(3).at(1);
  EXPECT_EQ(value.tags().size(), 1U);
  if (value.has(1)) {
    literal.floats = value.at(1).floats(1);
  } else if (value.has(2)) {
    literal.ints = value.at(2).numbers(1);
  } else if (value.has(3)) {
    literal.bools = value.at(3).numbers(1);
  } else if (value.has(4)) {
    literal.strings = value.at(4).all(1);
  } else {
    literal.bytes = value.at(7).text(1);
  }
  return literal;
}

struct ReadArgument {
  std::vector<std::string> names;
  std::vector<ReadLiteral> values;
};

struct ReadOperation {
  std::string type;
  std::map<std::string, ReadArgument> inputs;
  std::string output;
  ReadType output_type;
  std::map<std::string, ReadLiteral> attributes;

  // An input bound to one name.
  std::string input(const std::string& parameter) const {
    const auto found = inputs.find(parameter);
    EXPECT_NE(found, inputs.end()) << type << " has no " << parameter;
    if (found == inputs.end() || found->second.names.size() != 1) {
      return {};
    }
    return found->second.names.front();
  }
};

inline ReadOperation read_operation(const Proto& message) {
  ReadOperation operation{.type = message.text(1)};
  for (const auto& [parameter, argument] : message.entries(2)) {
    ReadArgument& read = operation.inputs[parameter];
    for (const std::string& bytes : Proto(argument).all(1)) {
      const Proto binding(bytes);
      if (binding.has(1)) {
        read.names.push_back(binding.text(1));
      } else {
        read.values.push_back(read_literal(binding.at(2)));
      }
    }
  }
  const Proto output = message.at(3);
  operation.output = output.text(1);
  operation.output_type = read_type(output.at(2));
  for (const auto& [name, value] : message.entries(5)) {
    EXPECT_TRUE(operation.attributes.emplace(name, read_literal(Proto(value))).second) << name;
  }
  return operation;
}

struct ReadProgram {
  std::vector<std::pair<std::string, ReadType>> inputs;
  std::string opset;
  std::vector<ReadOperation> operations;
  std::vector<std::string> outputs;

  const ReadOperation& at(const std::string& output) const {
    const auto found = std::ranges::find(operations, output, &ReadOperation::output);
    if (found == operations.end()) {
      throw std::out_of_range(output);
    }
    return *found;
  }
  std::vector<ReadOperation> of_type(const std::string& type) const {
    std::vector<ReadOperation> result;
    std::ranges::copy_if(operations, std::back_inserter(result),
                         [&](const ReadOperation& operation) { return operation.type == type; });
    return result;
  }
};

// Program. Reads it and checks what holds for every program: one function "main" with one block, names that MIL allows
// and that are used once, values that exist before they are used.
inline ReadProgram read_program(const std::string& bytes) {
  const Proto program(bytes);
  EXPECT_EQ(program.number(1), 1);
  const auto functions = program.entries(2);
  EXPECT_EQ(functions.size(), 1U);
  EXPECT_EQ(functions.at(0).first, "main");
  const Proto function(functions.at(0).second);
  ReadProgram result;
  for (const std::string& input : function.all(1)) {
    result.inputs.emplace_back(Proto(input).text(1), read_type(Proto(input).at(2)));
  }
  result.opset = function.text(2);
  const auto blocks = function.entries(3);
  EXPECT_EQ(blocks.size(), 1U);
  EXPECT_EQ(blocks.at(0).first, result.opset);
  const Proto block(blocks.at(0).second);
  result.outputs = block.all(2);
  for (const std::string& operation : block.all(3)) {
    result.operations.push_back(read_operation(Proto(operation)));
  }

  std::set<std::string> known;
  const auto define = [&](const std::string& name) {
    EXPECT_TRUE(known.insert(name).second) << name << " is defined twice";
    const auto is_legal = [](unsigned char c) { return std::isalnum(c) != 0 || c == '_'; };
    EXPECT_TRUE(!name.empty() && std::isdigit(static_cast<unsigned char>(name[0])) == 0 &&
                std::ranges::all_of(name, is_legal))
        << "'" << name << "'";
  };
  for (const auto& [name, type] : result.inputs) {
    define(name);
  }
  for (const ReadOperation& operation : result.operations) {
    for (const auto& [parameter, argument] : operation.inputs) {
      for (const std::string& name : argument.names) {
        EXPECT_TRUE(known.contains(name)) << operation.type << " uses " << name << " before it is there";
      }
    }
    define(operation.output);
    const auto name = operation.attributes.find("name");
    EXPECT_TRUE(name != operation.attributes.end() &&
                name->second.strings == std::vector<std::string>{operation.output})
        << operation.output;
  }
  for (const std::string& output : result.outputs) {
    EXPECT_TRUE(known.contains(output)) << output;
  }
  return result;
}

}  // namespace diffulex_edge::testing
