#include "backends/coreml/mil_reader.h"

#include <algorithm>
#include <array>
#include <bit>
#include <map>
#include <optional>
#include <span>
#include <utility>

#include "backends/coreml/message_fields.h"
#include "core/message_reader.h"
#include "diffulex_edge/dtype.h"

namespace diffulex_edge::coreml {
namespace {

constexpr std::int64_t kUnknownSize = -1;

// An element type: its number in MIL.proto, what people read, its bits, its number in weight files (0: not there).
struct ElementKind {
  std::int64_t mil = 0;
  std::string_view name;
  std::uint32_t bits = 0;
  std::uint32_t blob = 0;
};

constexpr std::array kElements = {
    ElementKind{1, "bool", 8, 0},     ElementKind{2, "string", 0, 0}, ElementKind{10, "f16", 16, 1},
    ElementKind{11, "f32", 32, 2},    ElementKind{12, "f64", 64, 0},  ElementKind{13, "bf16", 16, 5},
    ElementKind{21, "i8", 8, 4},      ElementKind{22, "i16", 16, 6},  ElementKind{23, "i32", 32, 14},
    ElementKind{24, "i64", 64, 0},    ElementKind{25, "i4", 4, 8},    ElementKind{31, "u8", 8, 3},
    ElementKind{32, "u16", 16, 7},    ElementKind{33, "u32", 32, 15}, ElementKind{34, "u64", 64, 0},
    ElementKind{35, "u4", 4, 11},     ElementKind{36, "u2", 2, 10},   ElementKind{37, "u1", 1, 9},
    ElementKind{38, "u6", 6, 13},     ElementKind{39, "u3", 3, 12},   ElementKind{40, "f8e4m3fn", 8, 16},
    ElementKind{41, "f8e5m2", 8, 17},
};

// A value's type; without an element kind it is no tensor.
struct TensorType {
  const ElementKind* element = nullptr;
  std::vector<std::int64_t> shape;
};

struct BlobPlace {
  std::string file;
  std::uint64_t offset = 0;
};

struct ConstantValue {
  TensorType type;
  std::optional<BlobPlace> blob;
};

struct StoredConstant {
  std::size_t weight = 0;  // which one
  TensorType type;
};

struct Operation {
  std::string type;
  std::map<std::string, ConstantValue> values;  // by parameter: attributes, and inputs that are given in place
  std::map<std::string, std::string> names;     // the other inputs
  std::string output;                           // the first one
  TensorType output_type;
  std::vector<std::string_view> blocks;
};

// Operations that make a weight from stored parts: the parameter with the most data, and the one with what a group of
// elements shares.
struct Decompression {
  std::string_view operation;
  std::string_view data;
  std::string_view shared;
};
constexpr std::array kDecompressions = {
    Decompression{"constexpr_affine_dequantize", "quantized_data", ""},
    Decompression{"constexpr_blockwise_shift_scale", "data", "scale"},
    Decompression{"constexpr_lut_to_dense", "indices", "lut"},
    Decompression{"constexpr_cast", "source_val", ""},
};

class ProgramReader {
 public:
  ProgramReader(const std::string& file, std::vector<WeightReference>& weights) : file_(file), weights_(weights) {}

  std::vector<InspectedFunction> read(MessageReader message) {
    std::vector<InspectedFunction> functions;
    while (message.next()) {
      if (message.tag() == field::kProgramFunctions) {
        const auto [name, function] = read_map_entry(message.message());
        functions.push_back(read_function(std::string(name), MessageReader(function)));
      } else {
        message.skip();
      }
    }
    return functions;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { fail_message(file_, what); }

  InspectedFunction read_function(std::string name, MessageReader message) {
    InspectedFunction function{.name = std::move(name)};
    std::map<std::string_view, std::string_view> blocks;
    while (message.next()) {
      switch (message.tag()) {
        case field::kFunctionOpset:
          function.opset = message.text();
          break;
        case field::kFunctionBlocks: {
          const auto [opset, block] = read_map_entry(message.message());
          blocks[opset] = block;
          break;
        }
        default:
          message.skip();
      }
    }
    const auto block = blocks.find(function.opset);
    if (block == blocks.end()) {
      fail("the function '" + function.name + "' has no operations for its opset '" + function.opset + "'");
    }
    constants_.clear();
    constant_types_.clear();
    read_block(MessageReader(block->second), function, 0);
    return function;
  }

  void read_block(MessageReader message, InspectedFunction& function, int depth) {
    check_message_depth(file_, depth);
    while (message.next()) {
      if (message.tag() != field::kBlockOperations) {
        message.skip();
        continue;
      }
      const Operation operation = read_operation(message.message());
      ++function.operations[operation.type];
      add_weights(operation);
      for (const std::string_view block : operation.blocks) {
        read_block(MessageReader(block), function, depth + 1);
      }
    }
  }

  Operation read_operation(MessageReader message) const {
    Operation operation;
    while (message.next()) {
      switch (message.tag()) {
        case field::kOperationType:
          operation.type = message.text();
          break;
        case field::kOperationInputs: {
          const auto [parameter, argument] = read_map_entry(message.message());
          read_argument(std::string(parameter), MessageReader(argument), operation);
          break;
        }
        case field::kOperationOutputs: {
          const MessageReader output = message.message();
          if (operation.output.empty()) {
            read_output(output, operation);
          }
          break;
        }
        case field::kOperationBlocks:
          operation.blocks.push_back(message.view());
          break;
        case field::kOperationAttributes: {
          const auto [attribute, value] = read_map_entry(message.message());
          operation.values[std::string(attribute)] = read_value(MessageReader(value));
          break;
        }
        default:
          message.skip();
      }
    }
    if (operation.type.empty()) {
      fail("an operation has no type");
    }
    return operation;
  }

  void read_argument(const std::string& parameter, MessageReader message, Operation& operation) const {
    while (message.next()) {
      if (message.tag() != field::kArgumentBindings) {
        message.skip();
        continue;
      }
      MessageReader binding = message.message();
      while (binding.next()) {
        switch (binding.tag()) {
          case field::kBindingName:
            operation.names[parameter] = binding.text();
            break;
          case field::kBindingValue:
            operation.values[parameter] = read_value(binding.message());
            break;
          default:
            binding.skip();
        }
      }
    }
  }

  void read_output(MessageReader message, Operation& operation) const {
    while (message.next()) {
      switch (message.tag()) {
        case field::kNamedValueName:
          operation.output = message.text();
          break;
        case field::kNamedValueType:
          operation.output_type = read_value_type(message.message());
          break;
        default:
          message.skip();
      }
    }
  }

  ConstantValue read_value(MessageReader message) const {
    ConstantValue value;
    while (message.next()) {
      switch (message.tag()) {
        case field::kValueType:
          value.type = read_value_type(message.message());
          break;
        case field::kValueBlob: {
          MessageReader blob = message.message();
          value.blob.emplace();
          while (blob.next()) {
            switch (blob.tag()) {
              case field::kBlobFile:
                value.blob->file = blob.text();
                break;
              case field::kBlobOffset:
                value.blob->offset = static_cast<std::uint64_t>(blob.integer());
                break;
              default:
                blob.skip();
            }
          }
          break;
        }
        default:
          message.skip();
      }
    }
    return value;
  }

  // Lists, tuples, dictionaries and states are left without an element kind.
  TensorType read_value_type(MessageReader message) const {
    TensorType type;
    while (message.next()) {
      if (message.tag() == field::kValueTypeTensor) {
        type = read_tensor_type(message.message());
      } else {
        message.skip();
      }
    }
    return type;
  }

  TensorType read_tensor_type(MessageReader message) const {
    TensorType type;
    std::int64_t rank = 0;
    while (message.next()) {
      switch (message.tag()) {
        case field::kTensorDataType: {
          const std::int64_t number = message.integer();
          const auto* const found = std::ranges::find(kElements, number, &ElementKind::mil);
          if (found == kElements.end()) {
            fail("the element type " + std::to_string(number) + " does not exist");
          }
          type.element = found;
          break;
        }
        case field::kTensorRank:
          rank = message.integer();
          break;
        case field::kTensorDimensions:
          type.shape.push_back(read_dimension(message.message()));
          break;
        default:
          message.skip();
      }
    }
    // A rank of -1 is unknown.
    if (rank >= 0 && static_cast<std::size_t>(rank) != type.shape.size()) {
      fail("a value of rank " + std::to_string(rank) + " has " + std::to_string(type.shape.size()) + " dimensions");
    }
    return type;
  }

  std::int64_t read_dimension(MessageReader message) const {
    std::int64_t size = kUnknownSize;
    while (message.next()) {
      if (message.tag() == field::kDimensionConstant) {
        MessageReader constant = message.message();
        size = 0;
        while (constant.next()) {
          if (constant.tag() == field::kConstantSize) {
            size = constant.integer();
          } else {
            constant.skip();
          }
        }
        if (size < 0) {
          fail("a dimension is larger than 2^63");
        }
      } else {
        message.skip();
      }
    }
    return size;
  }

  // --- Weights.

  std::uint64_t elements_of(const std::vector<std::int64_t>& shape, const std::string& of) const {
    std::optional<std::int64_t> count = 1;
    for (const std::int64_t size : shape) {
      count = count ? checked_multiply(*count, size) : count;
    }
    if (!count) {
      fail("the weight '" + of + "' has a shape without a number of elements");
    }
    return static_cast<std::uint64_t>(*count);
  }

  // Bits of so many elements.
  std::uint64_t bits_of(std::uint64_t count, std::uint32_t bits, const std::string& of) const {
    if (count > (std::uint64_t{1} << 60U) / bits) {
      fail("the weight '" + of + "' has more elements than a file can hold");
    }
    return count * bits;
  }

  void add_weights(const Operation& operation) {
    const auto* const rule = std::ranges::find(kDecompressions, operation.type, &Decompression::operation);
    for (const auto& [parameter, value] : operation.values) {
      if (value.blob) {
        const bool is_main = operation.type == "const" || (rule != kDecompressions.end() && parameter == rule->data);
        add_blob(value.type, *value.blob, is_main ? operation.output : operation.output + "_" + parameter);
        if (operation.type == "const") {
          constants_[operation.output] = {.weight = weights_.size() - 1, .type = value.type};
        } else if (is_main) {
          describe(operation, *rule, value.type, weights_.back());
        }
      }
    }
    if (operation.type == "const" || operation.type.starts_with("constexpr_")) {
      constant_types_[operation.output] = operation.output_type;
    }
    // The data may be a constant of its own.
    if (rule != kDecompressions.end()) {
      const auto name = operation.names.find(std::string(rule->data));
      const auto constant = name == operation.names.end() ? constants_.end() : constants_.find(name->second);
      if (constant != constants_.end()) {
        describe(operation, *rule, constant->second.type, weights_[constant->second.weight]);
      }
    }
  }

  void add_blob(const TensorType& type, const BlobPlace& blob, const std::string& name) {
    const ElementKind* element = type.element;
    if (element == nullptr || element->blob == 0) {
      fail("the weight '" + name + "' is of a type that weight files do not have");
    }
    WeightReference weight;
    weight.bits = bits_of(elements_of(type.shape, name), element->bits, name);
    weight.blob = element->blob;
    weight.file = blob.file;
    weight.offset = blob.offset;
    weight.tensor.name = name;
    weight.tensor.dtype = element->name;
    weight.tensor.shape = type.shape;
    weights_.push_back(std::move(weight));
  }

  const TensorType* type_of(const Operation& operation, std::string_view parameter) const {
    const auto value = operation.values.find(std::string(parameter));
    if (value != operation.values.end()) {
      return &value->second.type;
    }
    const auto name = operation.names.find(std::string(parameter));
    const auto type = name == operation.names.end() ? constant_types_.end() : constant_types_.find(name->second);
    return type == constant_types_.end() ? nullptr : &type->second;
  }

  // What `weight`, with the stored data of type `data`, is once it is decompressed.
  void describe(const Operation& operation, const Decompression& rule, const TensorType& data,
                WeightReference& weight) const {
    InspectedTensor& tensor = weight.tensor;
    tensor.shape = operation.output_type.shape;
    const std::uint64_t logical = elements_of(tensor.shape, tensor.name);
    const std::uint64_t stored = elements_of(data.shape, tensor.name);
    const TensorType* shared = type_of(operation, rule.shared);
    if (rule.shared == "lut") {
      describe_palette(data, shared, stored, logical, tensor);
    } else if (logical != stored) {
      fail("the weight '" + tensor.name + "' has " + std::to_string(stored) + " elements and stands for " +
           std::to_string(logical));
    } else if (shared != nullptr) {
      const std::int64_t group = group_size(data.shape, shared->shape, tensor.name);
      tensor.group_size = group == 1 ? 0 : group;
    }
  }

  void describe_palette(const TensorType& data, const TensorType* lut, std::uint64_t stored, std::uint64_t logical,
                        InspectedTensor& tensor) const {
    const std::size_t rank = data.shape.size();
    if (lut == nullptr || lut->shape.empty()) {
      fail("the palette of the weight '" + tensor.name + "' is missing");
    }
    const bool grouped = lut->shape.size() == rank + 2;  // from iOS18: groups, values, elements of a value
    const std::int64_t values = grouped ? lut->shape[rank] : lut->shape.front();
    if (values < 2 || values > 256 || !std::has_single_bit(static_cast<std::uint64_t>(values))) {
      fail("the palette of the weight '" + tensor.name + "' has " + std::to_string(values) + " values");
    }
    const int bits = std::countr_zero(static_cast<std::uint64_t>(values));
    std::uint64_t wanted = bits_of(logical, static_cast<std::uint32_t>(bits), tensor.name);
    std::uint64_t found = bits_of(stored, data.element->bits, tensor.name);
    if (grouped) {
      const std::int64_t vector = std::max<std::int64_t>(lut->shape.back(), 1);
      wanted /= static_cast<std::uint64_t>(vector);
      tensor.group_size = group_size(data.shape, std::span(lut->shape).first(rank), tensor.name);
    } else {
      wanted = (wanted + 7) / 8 * 8;  // whole bytes
    }
    if (wanted != found) {
      fail("the weight '" + tensor.name + "' has " + std::to_string(found) + " bits of indices, not " +
           std::to_string(wanted));
    }
    tensor.dtype = "palette" + std::to_string(bits);
  }

  // Elements along the axes that are divided into groups; 0 where none is.
  std::int64_t group_size(std::span<const std::int64_t> data, std::span<const std::int64_t> groups,
                          const std::string& of) const {
    if (data.size() != groups.size()) {
      return 0;
    }
    std::int64_t size = 0;
    for (std::size_t axis = 0; axis < data.size(); ++axis) {
      if (groups[axis] < 1 || data[axis] % groups[axis] != 0) {
        fail("the groups of the weight '" + of + "' do not divide its shape");
      }
      if (groups[axis] > 1) {
        size = std::max<std::int64_t>(size, 1) * (data[axis] / groups[axis]);
      }
    }
    return size;
  }

  const std::string& file_;
  std::vector<WeightReference>& weights_;
  // Constants of a function, by name: those in weight files, and the types of all.
  std::map<std::string, StoredConstant> constants_;
  std::map<std::string, TensorType> constant_types_;
};

}  // namespace

std::vector<InspectedFunction> read_program(std::string_view message, const std::string& file,
                                            std::vector<WeightReference>& weights) {
  return ProgramReader(file, weights).read(MessageReader(message));
}

}  // namespace diffulex_edge::coreml
