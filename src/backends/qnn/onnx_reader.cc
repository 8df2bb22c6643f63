#include "backends/qnn/onnx_reader.h"

#include <array>
#include <limits>
#include <utility>

#include "backends/qnn/onnx_fields.h"
#include "core/message_reader.h"

namespace diffulex_edge::qnn {
namespace {

// TensorProto.DataType.
constexpr std::array kTypes = {
    NumberedName{1, "f32"},  NumberedName{2, "u8"},    NumberedName{3, "i8"},   NumberedName{4, "u16"},
    NumberedName{5, "i16"},  NumberedName{6, "i32"},   NumberedName{7, "i64"},  NumberedName{8, "string"},
    NumberedName{9, "bool"}, NumberedName{10, "f16"},  NumberedName{11, "f64"}, NumberedName{12, "u32"},
    NumberedName{13, "u64"}, NumberedName{16, "bf16"}, NumberedName{21, "u4"},  NumberedName{22, "i4"},
};

// Of one element; 0 where it has no fixed size or is not known.
std::int64_t bits_of(std::string_view type) {
  if (type == "bool") {
    return 8;
  }
  if (type.size() < 2 || type == "string" || type.starts_with("type")) {
    return 0;
  }
  std::int64_t bits = 0;
  for (const char digit : type.substr(type.find_first_of("0123456789"))) {
    bits = bits * 10 + (digit - '0');
  }
  return bits;
}

std::string type_name(std::int64_t number) {
  return find_name(kTypes, number).value_or("type " + std::to_string(number));
}

class Reader {
 public:
  explicit Reader(const std::string& file) : file_(file) {}

  ReadModel read(std::string_view bytes) {
    try {
      read_model(MessageReader(bytes));
    } catch (const protozero::exception& error) {
      fail_message(file_, std::string("is not a valid ONNX model: ") + error.what());
    }
    if (!has_graph_) {
      fail_message(file_, "holds no ONNX graph");
    }
    return std::move(result_);
  }

 private:
  void read_model(MessageReader message) {
    InspectedModel& model = result_.model;
    model.type = "onnx";
    model.functions.resize(1);
    while (message.next()) {
      switch (message.tag()) {
        case field::kModelIrVersion:
          model.specification_version = message.integer();
          break;
        case field::kModelGraph:
          read_graph(message.message());
          break;
        case field::kModelOpset:
          read_opset(message.message());
          break;
        case field::kModelMetadata: {
          const auto [key, value] = read_map_entry(message.message());
          model.metadata[std::string(key)] = std::string(value);
          break;
        }
        default:
          message.skip();
      }
    }
  }

  void read_opset(MessageReader message) {
    std::string domain;
    std::int64_t version = 0;
    while (message.next()) {
      switch (message.tag()) {
        case field::kOpsetDomain:
          domain = message.text();
          break;
        case field::kOpsetVersion:
          version = message.integer();
          break;
        default:
          message.skip();
      }
    }
    std::string& opset = result_.model.functions.front().opset;
    opset += (opset.empty() ? "" : ", ") + (domain.empty() ? "ai.onnx" : domain) + " " + std::to_string(version);
  }

  void read_graph(MessageReader message) {
    has_graph_ = true;
    InspectedModel& model = result_.model;
    InspectedFunction& function = model.functions.front();
    while (message.next()) {
      switch (message.tag()) {
        case field::kGraphNode:
          ++function.operations[read_node(message.message())];
          break;
        case field::kGraphName:
          function.name = message.text();
          break;
        case field::kGraphInitializer:
          result_.tensors.push_back(read_tensor(message.message()));
          break;
        case field::kGraphInput:
          model.features.inputs.push_back(read_value(message.message()));
          break;
        case field::kGraphOutput:
          model.features.outputs.push_back(read_value(message.message()));
          break;
        default:
          message.skip();
      }
    }
  }

  static std::string read_node(MessageReader message) {
    std::string op;
    std::string domain;
    while (message.next()) {
      switch (message.tag()) {
        case field::kNodeOpType:
          op = message.text();
          break;
        case field::kNodeDomain:
          domain = message.text();
          break;
        default:
          message.skip();
      }
    }
    return domain.empty() ? op : domain + "." + op;
  }

  static InspectedFeature read_value(MessageReader message) {
    InspectedFeature feature;
    while (message.next()) {
      switch (message.tag()) {
        case field::kValueInfoName:
          feature.name = message.text();
          break;
        case field::kValueInfoType:
          read_type(message.message(), feature);
          break;
        default:
          message.skip();
      }
    }
    return feature;
  }

  static void read_type(MessageReader message, InspectedFeature& feature) {
    while (message.next()) {
      if (message.tag() != field::kTypeTensor) {
        message.skip();
        continue;
      }
      MessageReader tensor = message.message();
      while (tensor.next()) {
        switch (tensor.tag()) {
          case field::kTensorTypeElement:
            feature.dtype = type_name(tensor.integer());
            break;
          case field::kTensorTypeShape:
            read_shape(tensor.message(), feature.shape);
            break;
          default:
            tensor.skip();
        }
      }
    }
  }

  // A size that the caller chooses is -1.
  static void read_shape(MessageReader message, std::vector<std::int64_t>& shape) {
    while (message.next()) {
      if (message.tag() != field::kShapeDim) {
        message.skip();
        continue;
      }
      std::int64_t size = -1;
      MessageReader dim = message.message();
      while (dim.next()) {
        if (dim.tag() == field::kDimSize) {
          size = dim.integer();
        } else {
          dim.skip();
        }
      }
      shape.push_back(size);
    }
  }

  ReadTensor read_tensor(MessageReader message) const {
    ReadTensor read;
    bool is_external = false;
    std::int64_t length = -1;
    while (message.next()) {
      switch (message.tag()) {
        case field::kTensorDims:
          message.append_integers(read.tensor.shape);
          break;
        case field::kTensorDataType:
          read.tensor.dtype = type_name(message.integer());
          break;
        case field::kTensorName:
          read.tensor.name = message.text();
          break;
        case field::kTensorRawData:
          read.raw = message.view();
          break;
        case field::kTensorExternalData: {
          const auto [key, value] = read_map_entry(message.message());
          if (key == "location") {
            read.location = std::string(value);
          } else if (key == "offset") {
            read.offset = parse_size(value);
          } else if (key == "length") {
            length = parse_size(value);
          }
          break;
        }
        case field::kTensorDataLocation:
          is_external = message.integer() == 1;
          break;
        default:
          message.skip();
      }
    }
    if (is_external && (read.location.empty() || length < 0)) {
      fail_message(file_, "the tensor '" + read.tensor.name + "' is in another file, without " +
                              (read.location.empty() ? "that file's name" : "a length"));
    }
    const std::int64_t bytes = bytes_of(read.tensor);
    const auto found = is_external ? length : static_cast<std::int64_t>(read.raw.size());
    // Small data may be in other fields than raw_data, which are not looked at.
    const bool is_elsewhere = !is_external && read.raw.empty();
    if (bytes != found && !is_elsewhere) {
      fail_message(file_, "the tensor '" + read.tensor.name + "' has " + std::to_string(found) +
                              " bytes, and its type and shape need " + std::to_string(bytes));
    }
    if (!is_external) {
      read.location.clear();
    }
    read.tensor.bytes = found;
    return read;
  }

  std::int64_t parse_size(std::string_view text) const {
    std::int64_t value = 0;
    for (const char digit : text) {
      if (digit < '0' || digit > '9' || value > (std::numeric_limits<std::int64_t>::max() - 9) / 10) {
        fail_message(file_, "a tensor's place is '" + std::string(text) + "', not a number of bytes");
      }
      value = value * 10 + (digit - '0');
    }
    return value;
  }

  std::int64_t bytes_of(const InspectedTensor& tensor) const {
    std::int64_t count = 1;
    for (const std::int64_t size : tensor.shape) {
      if (size < 0 || (size > 0 && count > (std::numeric_limits<std::int64_t>::max() / 64) / size)) {
        fail_message(file_, "the tensor '" + tensor.name + "' has an impossible size of " + std::to_string(size));
      }
      count *= size;
    }
    return (count * bits_of(tensor.dtype) + 7) / 8;
  }

  const std::string& file_;
  ReadModel result_;
  bool has_graph_ = false;
};

}  // namespace

ReadModel read_model(std::string_view message, const std::string& file) { return Reader(file).read(message); }

}  // namespace diffulex_edge::qnn
