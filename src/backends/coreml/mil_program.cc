#include "backends/coreml/mil_program.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>
#include <protozero/pbf_writer.hpp>

#include "backends/coreml/message_fields.h"
#include "quant/kernels/kernels.h"

namespace diffulex_edge::coreml {
namespace {

using protozero::pbf_writer;

std::string serialize(const MilType& type) {
  std::string tensor;
  pbf_writer writer(tensor);
  writer.add_enum(field::kTensorDataType, static_cast<std::int32_t>(type.dtype));
  writer.add_int64(field::kTensorRank, static_cast<std::int64_t>(type.shape.size()));
  for (const Dim& dim : type.shape) {
    pbf_writer dimension(writer, field::kTensorDimensions);
    if (dim.is_sequence) {
      dimension.add_message(field::kDimensionUnknown, std::string());
      continue;
    }
    pbf_writer size(dimension, field::kDimensionConstant);
    size.add_uint64(field::kConstantSize, static_cast<std::uint64_t>(dim.value));
  }
  std::string result;
  pbf_writer(result).add_message(field::kValueTypeTensor, tensor);
  return result;
}

std::string serialize(const std::string& name, const MilType& type) {
  std::string result;
  pbf_writer writer(result);
  writer.add_string(field::kNamedValueName, name);
  writer.add_message(field::kNamedValueType, serialize(type));
  return result;
}

std::string serialize_state(const std::string& name, const MilType& type) {
  std::string result;
  pbf_writer writer(result);
  writer.add_string(field::kNamedValueName, name);
  pbf_writer value_type(writer, field::kNamedValueType);
  pbf_writer state(value_type, field::kValueTypeState);
  state.add_message(field::kStateWrapped, serialize(type));
  return result;
}

// TensorValue, by what the variant holds.
struct TensorValueWriter {
  pbf_writer& writer;

  void operator()(const std::vector<std::int32_t>& values) const {
    pbf_writer repeated(writer, field::kTensorInts);
    repeated.add_packed_int32(field::kRepeatedValues, values.begin(), values.end());
  }
  void operator()(const std::vector<float>& values) const {
    pbf_writer repeated(writer, field::kTensorFloats);
    repeated.add_packed_float(field::kRepeatedValues, values.begin(), values.end());
  }
  void operator()(const std::vector<bool>& values) const {
    pbf_writer repeated(writer, field::kTensorBools);
    repeated.add_packed_bool(field::kRepeatedValues, values.begin(), values.end());
  }
  void operator()(const std::string& text) const {
    pbf_writer repeated(writer, field::kTensorStrings);
    repeated.add_string(field::kRepeatedValues, text);
  }
  void operator()(const std::vector<std::byte>& bytes) const {
    pbf_writer repeated(writer, field::kTensorBytes);
    repeated.add_bytes(field::kRepeatedValues, reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  void operator()(const BlobReference& /*unused*/) const {}
};

std::string serialize(const MilLiteral& literal) {
  std::string result;
  pbf_writer writer(result);
  writer.add_message(field::kValueType, serialize(literal.type));
  if (const auto* blob = std::get_if<BlobReference>(&literal.value)) {
    pbf_writer file(writer, field::kValueBlob);
    file.add_string(field::kBlobFile, blob->file);
    file.add_uint64(field::kBlobOffset, static_cast<std::uint64_t>(blob->offset));
  } else {
    pbf_writer immediate(writer, field::kValueImmediate);
    pbf_writer tensor(immediate, field::kImmediateTensor);
    std::visit(TensorValueWriter{tensor}, literal.value);
  }
  return result;
}

void add_map_entry(pbf_writer& writer, protozero::pbf_tag_type tag, const std::string& key, const std::string& value) {
  pbf_writer entry(writer, tag);
  entry.add_string(field::kMapKey, key);
  entry.add_message(field::kMapValue, value);
}

template <typename T>
std::vector<std::byte> bytes_of(const T& value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  return {bytes.begin(), bytes.end()};
}

// What the framework's compiler does not read as a name, as coremltools' name sanitizer has it.
bool is_reserved(std::string_view name) {
  constexpr std::array<std::string_view, 24> kWords = {
      "any",  "bool", "program", "func", "tensor", "list",  "dict",  "tuple", "true",  "false",  "string", "state",
      "bf16", "fp16", "fp32",    "fp64", "int8",   "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"};
  return std::ranges::find(kWords, name) != kWords.end();
}

Shape vector_shape(std::size_t size) { return {{.value = static_cast<std::int64_t>(size)}}; }

}  // namespace

bool has_sequence(const Shape& shape) { return std::ranges::any_of(shape, &Dim::is_sequence); }

MilLiteral int_literal(std::int32_t value) {
  return {.type = {.dtype = MilDtype::kInt32, .shape = {}}, .value = std::vector{value}};
}

MilLiteral ints_literal(std::vector<std::int32_t> values) {
  return {.type = {.dtype = MilDtype::kInt32, .shape = vector_shape(values.size())}, .value = std::move(values)};
}

MilLiteral bool_literal(bool value) {
  return {.type = {.dtype = MilDtype::kBool, .shape = {}}, .value = std::vector{value}};
}

MilLiteral bools_literal(std::vector<bool> values) {
  return {.type = {.dtype = MilDtype::kBool, .shape = vector_shape(values.size())}, .value = std::move(values)};
}

MilLiteral string_literal(std::string value) {
  return {.type = {.dtype = MilDtype::kString, .shape = {}}, .value = std::move(value)};
}

MilLiteral int8_literal(std::int8_t value) {
  return {.type = {.dtype = MilDtype::kInt8, .shape = {}}, .value = bytes_of(value)};
}

MilLiteral uint32s_literal(std::span<const std::int64_t> values) {
  std::vector<std::byte> bytes;
  for (const std::int64_t value : values) {
    const std::vector<std::byte> one = bytes_of(static_cast<std::uint32_t>(value));
    bytes.insert(bytes.end(), one.begin(), one.end());
  }
  return {.type = {.dtype = MilDtype::kUint32, .shape = vector_shape(values.size())}, .value = std::move(bytes)};
}

MilLiteral float_literal(MilDtype dtype, float value) {
  const MilType type{.dtype = dtype, .shape = {}};
  if (dtype == MilDtype::kFloat16) {
    return {.type = type, .value = bytes_of(kernels::scalar::f32_to_f16_one(value))};
  }
  return {.type = type, .value = std::vector{value}};
}

MilLiteral floats_literal(MilDtype dtype, std::span<const float> values, Shape shape) {
  MilLiteral literal{.type = {.dtype = dtype, .shape = std::move(shape)}, .value = std::vector<float>()};
  if (dtype != MilDtype::kFloat16) {
    literal.value = std::vector(values.begin(), values.end());
    return literal;
  }
  std::vector<std::byte> bytes;
  for (const float value : values) {
    const std::vector<std::byte> one = bytes_of(kernels::scalar::f32_to_f16_one(value));
    bytes.insert(bytes.end(), one.begin(), one.end());
  }
  literal.value = std::move(bytes);
  return literal;
}

MilLiteral blob_literal(MilDtype dtype, std::span<const std::int64_t> sizes, BlobReference blob) {
  return {.type = {.dtype = dtype, .shape = static_shape(sizes)}, .value = std::move(blob)};
}

std::string MilFunction::take_name(std::string_view wish) {
  std::string name(wish);
  std::ranges::replace_if(name, [](unsigned char c) { return std::isalnum(c) == 0; }, '_');
  if (name.empty() || std::isdigit(static_cast<unsigned char>(name.front())) != 0) {
    name.insert(0, "_");
  }
  if (is_reserved(name)) {
    name += '_';
  }
  return names_.take(name);
}

Id MilFunction::define(MilType type, std::string name) {
  values_.push_back({.name = std::move(name), .type = std::move(type)});
  return static_cast<Id>(values_.size() - 1);
}

Id MilFunction::input(std::string name, MilType type) {
  inputs_.push_back({.name = name, .type = type});
  names_.reserve(name);
  return define(std::move(type), std::move(name));
}

Id MilFunction::state(std::string name, MilType type) {
  states_.push_back({.name = name, .type = type});
  names_.reserve(name);
  return define(std::move(type), std::move(name));
}

Id MilFunction::constant(MilLiteral literal, std::string_view name) {
  const auto [position, inserted] = constants_.emplace(serialize(literal), 0);
  if (inserted) {
    const Id result = define(literal.type, take_name(name));
    Literals attributes;
    attributes.emplace_back("val", std::move(literal));
    operations_.push_back({.type = "const",
                           .arguments = {},
                           .literals = {},
                           .attributes = std::move(attributes),
                           .result = result,
                           .name = {}});
    position->second = result;
  }
  return position->second;
}

Id MilFunction::add(std::string_view operation, Arguments arguments, MilType type, std::string_view name) {
  const Id result = define(std::move(type), take_name(name.empty() ? operation : name));
  operations_.push_back({.type = std::string(operation),
                         .arguments = std::move(arguments),
                         .literals = {},
                         .attributes = {},
                         .result = result,
                         .name = {}});
  return result;
}

void MilFunction::add_without_result(std::string_view operation, Arguments arguments) {
  operations_.push_back({.type = std::string(operation),
                         .arguments = std::move(arguments),
                         .literals = {},
                         .attributes = {},
                         .result = std::nullopt,
                         .name = take_name(operation)});
}

Id MilFunction::add_constexpr(std::string_view operation, Literals parameters, bool as_attributes, MilType type,
                              std::string_view name) {
  const Id result = define(std::move(type), take_name(name));
  Operation made{
      .type = std::string(operation), .arguments = {}, .literals = {}, .attributes = {}, .result = result, .name = {}};
  (as_attributes ? made.attributes : made.literals) = std::move(parameters);
  operations_.push_back(std::move(made));
  return result;
}

void MilFunction::output(Id value, std::string name) {
  Value& found = values_.at(static_cast<std::size_t>(value));
  names_.reserve(name);
  found.name = name;
  outputs_.push_back({.name = std::move(name), .type = found.type});
}

bool MilFunction::is_computed(Id value) const {
  return std::ranges::any_of(
      operations_, [&](const Operation& operation) { return operation.result == value && operation.type != "const"; });
}

std::vector<std::string> MilFunction::operations() const {
  std::vector<std::string> types;
  for (const Operation& operation : operations_) {
    if (operation.type != "const") {
      types.push_back(operation.type);
    }
  }
  return types;
}

std::string MilFunction::serialize_operation(const Operation& operation) const {
  std::string result;
  pbf_writer writer(result);
  writer.add_string(field::kOperationType, operation.type);
  for (const auto& [parameter, values] : operation.arguments) {
    std::string argument;
    pbf_writer bindings(argument);
    for (const Id value : values) {
      pbf_writer binding(bindings, field::kArgumentBindings);
      binding.add_string(field::kBindingName, values_[static_cast<std::size_t>(value)].name);
    }
    add_map_entry(writer, field::kOperationInputs, parameter, argument);
  }
  for (const auto& [parameter, literal] : operation.literals) {
    std::string argument;
    pbf_writer bindings(argument);
    {
      pbf_writer binding(bindings, field::kArgumentBindings);
      binding.add_message(field::kBindingValue, serialize(literal));
    }
    add_map_entry(writer, field::kOperationInputs, parameter, argument);
  }
  std::string own_name = operation.name;
  if (operation.result) {
    const Value& value = values_[static_cast<std::size_t>(*operation.result)];
    writer.add_message(field::kOperationOutputs, serialize(value.name, value.type));
    own_name = value.name;
  }
  add_map_entry(writer, field::kOperationAttributes, "name", serialize(string_literal(std::move(own_name))));
  for (const auto& [name, literal] : operation.attributes) {
    add_map_entry(writer, field::kOperationAttributes, name, serialize(literal));
  }
  return result;
}

std::string MilFunction::serialize_block() const {
  std::string result;
  pbf_writer writer(result);
  for (const Feature& feature : outputs_) {
    writer.add_string(field::kBlockOutputs, feature.name);
  }
  for (const Operation& operation : operations_) {
    writer.add_message(field::kBlockOperations, serialize_operation(operation));
  }
  return result;
}

std::string MilFunction::serialize_program(std::string_view opset) const {
  std::string function;
  pbf_writer function_writer(function);
  for (const Feature& feature : inputs_) {
    function_writer.add_message(field::kFunctionInputs, serialize(feature.name, feature.type));
  }
  for (const Feature& feature : states_) {
    function_writer.add_message(field::kFunctionInputs, serialize_state(feature.name, feature.type));
  }
  function_writer.add_string(field::kFunctionOpset, opset.data(), opset.size());
  add_map_entry(function_writer, field::kFunctionBlocks, std::string(opset), serialize_block());
  std::string program;
  pbf_writer writer(program);
  writer.add_int64(field::kProgramVersion, 1);
  add_map_entry(writer, field::kProgramFunctions, "main", function);
  return program;
}

}  // namespace diffulex_edge::coreml
