#include "support/program_interpreter.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <optional>
#include <stdexcept>

#include "quant/kernels/kernels.h"
#include "support/pte_file.h"

namespace diffulex_edge::testing {
namespace {

namespace et = executorch::schema;
namespace xnn = xnnpack::schema;

using Sizes = std::vector<std::int64_t>;

std::size_t count(const Sizes& shape) {
  std::size_t product = 1;
  for (const std::int64_t size : shape) {
    product *= static_cast<std::size_t>(size);
  }
  return product;
}

void require(bool condition, const std::string& what) {
  if (!condition) {
    throw std::logic_error(what);
  }
}

Sizes index_of(std::size_t flat, const Sizes& shape) {
  Sizes index(shape.size());
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    index[axis] = static_cast<std::int64_t>(flat % static_cast<std::size_t>(shape[axis]));
    flat /= static_cast<std::size_t>(shape[axis]);
  }
  return index;
}

// The element at a broadcast index of a larger or equal rank.
double at(const Array& array, const Sizes& index) {
  std::int64_t flat = 0;
  const std::size_t skipped = index.size() - array.shape.size();
  for (std::size_t axis = 0; axis < array.shape.size(); ++axis) {
    flat = flat * array.shape[axis] + (array.shape[axis] == 1 ? 0 : index[axis + skipped]);
  }
  return array.values.at(static_cast<std::size_t>(flat));
}

Array filled(Sizes shape, const std::function<double(const Sizes&)>& f) {
  Array result{.shape = std::move(shape), .values = {}};
  for (std::size_t flat = 0; flat < count(result.shape); ++flat) {
    result.values.push_back(f(index_of(flat, result.shape)));
  }
  return result;
}

Sizes broadcast(const Sizes& a, const Sizes& b) {
  Sizes result(std::max(a.size(), b.size()), 1);
  for (std::size_t i = 1; i <= result.size(); ++i) {
    const std::int64_t left = i <= a.size() ? a[a.size() - i] : 1;
    const std::int64_t right = i <= b.size() ? b[b.size() - i] : 1;
    require(left == right || left == 1 || right == 1, "shapes do not broadcast");
    result[result.size() - i] = left == 1 ? right : left;
  }
  return result;
}

template <typename T>
T load(const std::string& bytes, std::size_t index) {
  T value{};
  require((index + 1) * sizeof(T) <= bytes.size(), "data are too short");
  std::memcpy(&value, bytes.data() + index * sizeof(T), sizeof(T));
  return value;
}

double bf16(const std::string& bytes, std::size_t index) {
  return static_cast<double>(
      std::bit_cast<float>(static_cast<std::uint32_t>(load<std::uint16_t>(bytes, index)) << 16U));
}

double f16(const std::string& bytes, std::size_t index) {
  return static_cast<double>(kernels::scalar::f16_to_f32_one(load<std::uint16_t>(bytes, index)));
}

int nibble(const std::string& bytes, std::size_t byte, bool high) {
  return (load<std::uint8_t>(bytes, byte) >> (high ? 4U : 0U) & 15U) - 8;
}

// The delegate's subgraph.
class Delegate {
 public:
  Delegate(const Pte& file, std::int64_t tokens, std::int64_t bound) : file_(file), tokens_(tokens), bound_(bound) {}

  // `inputs` by external id. Returns the value of the external output.
  Array run(const std::map<std::uint32_t, Array>& inputs) {
    const auto& values = *file_.graph().xvalues();
    values_.resize(values.size());
    std::optional<std::uint32_t> output;
    for (std::uint32_t id = 0; id < values.size(); ++id) {
      const xnn::TensorValue& tensor = tensor_of(*values.Get(id));
      if (tensor.constant_buffer_idx() != 0) {
        values_[id] = constant(*values.Get(id));
      } else if (tensor.flags() == 1) {
        define(id, inputs.at(tensor.external_id()));
      } else if (tensor.flags() == 2) {
        output = id;
      }
    }
    for (const xnn::Node* node : *file_.graph().xnodes()) {
      run_node(*node);
    }
    require(output.has_value(), "no output");
    return value(*output);
  }

 private:
  const xnn::TensorValue& tensor(std::uint32_t id) const { return tensor_of(*file_.graph().xvalues()->Get(id)); }

  const Array& value(std::uint32_t id) const {
    require(id < values_.size() && values_[id].has_value(),
            "value " + std::to_string(id) + " is read before it is made");
    return *values_[id];
  }

  // Every dimension is the declared one, or the actual length where the declared one is the bound.
  void define(std::uint32_t id, Array array) {
    const auto& dims = *tensor(id).dims();
    require(dims.size() == array.shape.size(), "value " + std::to_string(id) + " has another rank");
    for (std::uint32_t i = 0; i < dims.size(); ++i) {
      const auto declared = static_cast<std::int64_t>(dims.Get(i));
      require(array.shape[i] == declared || (declared == bound_ && array.shape[i] == tokens_),
              "value " + std::to_string(id) + " has another shape");
    }
    require(!values_.at(id).has_value(), "value " + std::to_string(id) + " is made twice");
    if (tensor(id).datatype() == xnn::Datatype::qint8) {
      const xnn::PerTensorQuant& affine = affine_of(id);
      const double scale = affine.scale();
      for (double& x : array.values) {
        x = std::clamp(x, (-128 - affine.zero_point()) * scale, (127 - affine.zero_point()) * scale);
      }
    }
    values_[id] = std::move(array);
  }

  const xnn::QuantizedTensorValue* quantization_of(std::uint32_t id) const {
    return file_.graph().xvalues()->Get(id)->xvalue_union_as_QuantizedTensorValue();
  }

  // Of a value in 8 bits with a fixed scale.
  const xnn::PerTensorQuant& affine_of(std::uint32_t id) const {
    const auto* quantized = quantization_of(id);
    const auto* affine = quantized != nullptr ? quantized->quant_params_as_PerTensorQuant() : nullptr;
    require(affine != nullptr && std::isnormal(affine->scale()) && affine->scale() > 0 &&
                std::abs(affine->zero_point()) <= 128,
            "a qint8 value without a proper scale");
    return *affine;
  }

  std::string data(std::uint32_t constant_index) const {
    const xnn::ConstantData& constant = *file_.graph().constant_data()->Get(constant_index);
    const std::string bytes = file_.named(constant.named_key()->str());
    require(constant.size() <= bytes.size(), "a constant is larger than its data");
    return bytes.substr(0, constant.size());
  }

  Array constant(const xnn::Value& value) const {
    const xnn::TensorValue& tensor = tensor_of(value);
    const std::string bytes = data(tensor.constant_buffer_idx());
    Array result{.shape = {tensor.dims()->begin(), tensor.dims()->end()}, .values = {}};
    const std::size_t elements = count(result.shape);
    const std::size_t columns = static_cast<std::size_t>(result.shape.back());
    const auto* quantized = value.xvalue_union_as_QuantizedTensorValue();
    const auto* channels = quantized != nullptr ? quantized->quant_params_as_PerChannelQuant() : nullptr;
    const auto* groups = quantized != nullptr ? quantized->quant_params_as_PerChannelGroupQuant() : nullptr;
    const std::string group_scales = groups != nullptr ? data(groups->scale_buffer_idx()) : std::string();
    const std::size_t packed = (columns + 1) / 2;
    for (std::size_t i = 0; i < elements; ++i) {
      const std::size_t row = i / columns;
      const std::size_t column = i % columns;
      switch (tensor.datatype()) {
        case xnn::Datatype::fp32:
          result.values.push_back(static_cast<double>(load<float>(bytes, i)));
          break;
        case xnn::Datatype::fp16:
          result.values.push_back(f16(bytes, i));
          break;
        case xnn::Datatype::qcint8:
          result.values.push_back(static_cast<double>(load<std::int8_t>(bytes, i)) *
                                  static_cast<double>(channels->scale()->Get(static_cast<std::uint32_t>(row))));
          break;
        case xnn::Datatype::qcint32:
          require(channels->scale()->size() == elements, "a bias without a scale for each value");
          result.values.push_back(static_cast<double>(load<std::int32_t>(bytes, i)) *
                                  static_cast<double>(channels->scale()->Get(static_cast<std::uint32_t>(i))));
          break;
        case xnn::Datatype::qcint4:
          result.values.push_back(nibble(bytes, row * packed + column / 2, column % 2 == 1) *
                                  static_cast<double>(channels->scale()->Get(static_cast<std::uint32_t>(row))));
          break;
        case xnn::Datatype::qbint4: {
          const auto group = static_cast<std::size_t>(groups->group_size());
          result.values.push_back(nibble(bytes, row * packed + column / 2, column % 2 == 1) *
                                  bf16(group_scales, row * (columns / group) + column / group));
          break;
        }
        default:
          throw std::logic_error("a constant of an unknown type");
      }
    }
    return result;
  }

  // What the two weight-only integer kernels do to a bias: scale * (accumulator + bias).
  double bias_scale(std::uint32_t filter, std::uint32_t input, std::uint32_t row) const {
    const auto* quantized = file_.graph().xvalues()->Get(filter)->xvalue_union_as_QuantizedTensorValue();
    const auto* channels = quantized != nullptr ? quantized->quant_params_as_PerChannelQuant() : nullptr;
    const bool quantized_input =
        tensor(input).datatype() == xnn::Datatype::qdint8 || tensor(input).datatype() == xnn::Datatype::qint8;
    return channels != nullptr && !quantized_input ? static_cast<double>(channels->scale()->Get(row)) : 1.0;
  }

  // What XNNPACK asks of a layer with static activations.
  void check_static(const xnn::FullyConnected& node) const {
    const bool is_static = tensor(node.input1_id()).datatype() == xnn::Datatype::qint8;
    require(is_static == (tensor(node.output_id()).datatype() == xnn::Datatype::qint8), "only one side is qint8");
    if (!is_static) {
      return;
    }
    const auto* channels = quantization_of(node.filter_id())->quant_params_as_PerChannelQuant();
    require(channels != nullptr, "static activations need a scale for each channel");
    const float input = affine_of(node.input1_id()).scale();
    const float output = affine_of(node.output_id()).scale();
    for (const float scale : *channels->scale()) {
      require(input * scale / output < 256.0F, "a requantization scale is too large");
    }
    if (node.bias_id() != 0xFFFFFFFF) {
      require(tensor(node.bias_id()).datatype() == xnn::Datatype::qcint32, "a bias of another type");
      const auto& bias = *quantization_of(node.bias_id())->quant_params_as_PerChannelQuant()->scale();
      for (std::uint32_t row = 0; row < bias.size(); ++row) {
        require(bias.Get(row) == input * channels->scale()->Get(row), "a bias does not count steps of the sums");
      }
    }
  }

  void fully_connected(const xnn::FullyConnected& node) {
    check_static(node);
    const Array& x = value(node.input1_id());
    const Array& filter = value(node.filter_id());
    require(x.shape.back() == filter.shape[1], "a filter does not fit its input");
    const xnn::Datatype filter_type = tensor(node.filter_id()).datatype();
    require(filter_type != xnn::Datatype::qbint4 || tensor(node.input1_id()).datatype() == xnn::Datatype::qdint8,
            "groups need a dynamically quantized input");
    Sizes shape = x.shape;
    shape.back() = filter.shape[0];
    const auto width = static_cast<std::size_t>(x.shape.back());
    const auto rows = static_cast<std::size_t>(filter.shape[0]);
    Array result{.shape = std::move(shape), .values = {}};
    for (std::size_t i = 0; i < x.values.size() / width; ++i) {
      for (std::size_t row = 0; row < rows; ++row) {
        double sum = 0.0;
        for (std::size_t k = 0; k < width; ++k) {
          sum += x.values[i * width + k] * filter.values[row * width + k];
        }
        if (node.bias_id() != 0xFFFFFFFF) {
          sum += value(node.bias_id()).values.at(row) *
                 bias_scale(node.filter_id(), node.input1_id(), static_cast<std::uint32_t>(row));
        }
        result.values.push_back(sum);
      }
    }
    define(node.output_id(), std::move(result));
  }

  void multiply_matrices(const xnn::Node2x1& node) {
    const Array& a = value(node.input1_id());
    const Array& b = value(node.input2_id());
    const bool transposed = node.flags() == 1;
    const std::size_t rank = a.shape.size();
    require(rank == b.shape.size() && a.shape.back() == b.shape[rank - (transposed ? 1 : 2)], "matrices do not fit");
    Sizes shape = broadcast({a.shape.begin(), a.shape.end() - 2}, {b.shape.begin(), b.shape.end() - 2});
    shape.push_back(a.shape[rank - 2]);
    shape.push_back(b.shape[rank - (transposed ? 2 : 1)]);
    define(node.output_id(), filled(std::move(shape), [&](Sizes index) {
             const std::int64_t row = index[rank - 2];
             const std::int64_t column = index[rank - 1];
             double sum = 0.0;
             for (std::int64_t k = 0; k < a.shape.back(); ++k) {
               index[rank - 2] = row;
               index[rank - 1] = k;
               const double left = at(a, index);
               index[rank - 2] = transposed ? column : k;
               index[rank - 1] = transposed ? k : column;
               sum += left * at(b, index);
             }
             return sum;
           }));
  }

  void pairs(const void* node, const std::function<double(double, double)>& f) {
    const auto& ids = *static_cast<const xnn::Node2x1*>(node);
    const Array& a = value(ids.input1_id());
    const Array& b = value(ids.input2_id());
    define(ids.output_id(), filled(broadcast(a.shape, b.shape), [&](const Sizes& i) { return f(at(a, i), at(b, i)); }));
  }

  void each(const void* node, const std::function<double(double)>& f) {
    const auto& ids = *static_cast<const xnn::Node1x1*>(node);
    Array result = value(ids.input_id());
    std::ranges::transform(result.values, result.values.begin(), f);
    define(ids.output_id(), std::move(result));
  }

  void softmax(const xnn::Node1x1& node) {
    Array result = value(node.input_id());
    const auto width = static_cast<std::size_t>(result.shape.back());
    for (std::size_t begin = 0; begin < result.values.size(); begin += width) {
      double* row = result.values.data() + begin;
      const double largest = *std::max_element(row, row + width);
      double total = 0.0;
      for (std::size_t i = 0; i < width; ++i) {
        total += row[i] = std::exp(row[i] - largest);
      }
      std::for_each(row, row + width, [&](double& x) { x /= total; });
    }
    define(node.output_id(), std::move(result));
  }

  void reshape(const xnn::StaticReshape& node) {
    Array result = value(node.input_id());
    Sizes shape(node.new_shape()->begin(), node.new_shape()->end());
    require(std::ranges::count(shape, 0) <= 1, "two sizes are to be inferred");
    const std::size_t known = count([&] {
      Sizes others = shape;
      std::ranges::replace(others, 0, 1);
      return others;
    }());
    std::ranges::replace(shape, 0, static_cast<std::int64_t>(result.values.size() / known));
    require(count(shape) == result.values.size(), "the elements do not fit the new shape");
    result.shape = std::move(shape);
    define(node.output_id(), std::move(result));
  }

  void transpose(const xnn::StaticTranspose& node) {
    const Array& x = value(node.input_id());
    Sizes shape;
    for (const std::uint32_t axis : *node.perm()) {
      shape.push_back(x.shape.at(axis));
    }
    define(node.output_id(), filled(std::move(shape), [&](const Sizes& index) {
             Sizes source(index.size());
             for (std::uint32_t i = 0; i < node.perm()->size(); ++i) {
               source[node.perm()->Get(i)] = index[i];
             }
             return at(x, source);
           }));
  }

  void slice(const xnn::StaticSlice& node) {
    const Array& x = value(node.input_id());
    Sizes shape = x.shape;
    for (std::uint32_t i = 0; i < node.sizes()->size(); ++i) {
      if (node.sizes()->Get(i) != 0) {
        shape[i] = node.sizes()->Get(i);
      }
      require(node.offsets()->Get(i) + shape[i] <= x.shape[i], "a slice leaves its value");
    }
    define(node.output_id(), filled(std::move(shape), [&](Sizes index) {
             for (std::uint32_t i = 0; i < node.offsets()->size(); ++i) {
               index[i] += node.offsets()->Get(i);
             }
             return at(x, index);
           }));
  }

  void concatenate(const xnn::NodeConcatenate& node) {
    const Array& a = value(node.input1_id());
    const Array& b = value(node.input2_id());
    Sizes shape = a.shape;
    shape.at(node.axis()) += b.shape.at(node.axis());
    define(node.output_id(), filled(std::move(shape), [&](Sizes index) {
             if (index[node.axis()] < a.shape[node.axis()]) {
               return at(a, index);
             }
             index[node.axis()] -= a.shape[node.axis()];
             return at(b, index);
           }));
  }

  void run_node(const xnn::Node& node) {
    const void* body = node.xnode_union();
    switch (node.xnode_union_type()) {
      case xnn::NodeUnion::FullyConnected:
        return fully_connected(*node.xnode_union_as_FullyConnected());
      case xnn::NodeUnion::BatchMatrixMultiply:
        return multiply_matrices(*static_cast<const xnn::Node2x1*>(body));
      case xnn::NodeUnion::Add:
        return pairs(body, std::plus<>());
      case xnn::NodeUnion::Subtract:
        return pairs(body, std::minus<>());
      case xnn::NodeUnion::Multiply:
        return pairs(body, std::multiplies<>());
      case xnn::NodeUnion::Convert:
        return each(body, [](double x) { return x; });
      case xnn::NodeUnion::Negate:
        return each(body, std::negate<>());
      case xnn::NodeUnion::Square:
        return each(body, [](double x) { return x * x; });
      case xnn::NodeUnion::ReciprocalSquareRoot:
        return each(body, [](double x) { return 1.0 / std::sqrt(x); });
      case xnn::NodeUnion::Sigmoid:
        return each(body, [](double x) { return 1.0 / (1.0 + std::exp(-x)); });
      case xnn::NodeUnion::Sin:
        return each(body, [](double x) { return std::sin(x); });
      case xnn::NodeUnion::Cos:
        return each(body, [](double x) { return std::cos(x); });
      case xnn::NodeUnion::Floor:
        return each(body, [](double x) { return std::floor(x); });
      case xnn::NodeUnion::Clamp:
        return each(body, [&](double x) {
          return std::clamp<double>(x, node.output_min_max()->output_min(), node.output_min_max()->output_max());
        });
      case xnn::NodeUnion::Softmax:
        return softmax(*static_cast<const xnn::Node1x1*>(body));
      case xnn::NodeUnion::StaticReshape:
        return reshape(*node.xnode_union_as_StaticReshape());
      case xnn::NodeUnion::StaticTranspose:
        return transpose(*node.xnode_union_as_StaticTranspose());
      case xnn::NodeUnion::StaticSlice:
        return slice(*node.xnode_union_as_StaticSlice());
      case xnn::NodeUnion::Concatenate2:
        return concatenate(*node.xnode_union_as_Concatenate2());
      default:
        throw std::logic_error(std::string("a node of kind ") + xnn::EnumNameNodeUnion(node.xnode_union_type()));
    }
  }

  const Pte& file_;
  std::int64_t tokens_;
  std::int64_t bound_;
  std::vector<std::optional<Array>> values_;
};

// The method around it.
class Method {
 public:
  Method(const Pte& file, const std::vector<std::int64_t>& ids)
      : file_(file), ids_(ids), tokens_(static_cast<std::int64_t>(ids.size())) {}

  Array run() {
    const std::int32_t input = file_.plan().inputs()->Get(0);
    bound_ = tensor(input).sizes()->Get(1);
    require(tokens_ >= 1 && tokens_ <= bound_, "the input leaves its bound");
    Array ids{.shape = {1, tokens_}, .values = {ids_.begin(), ids_.end()}};
    arrays_[input] = std::move(ids);
    for (const et::Instruction* instruction : *file_.plan().chains()->Get(0)->instructions()) {
      if (const et::KernelCall* call = instruction->instr_args_as_KernelCall()) {
        kernel(*call);
      } else {
        delegate(*instruction->instr_args_as_DelegateCall());
      }
    }
    return arrays_.at(file_.plan().outputs()->Get(0));
  }

 private:
  const et::EValue& value(std::int32_t index) const {
    return *file_.plan().values()->Get(static_cast<std::uint32_t>(index));
  }
  const et::Tensor& tensor(std::int32_t index) const { return *value(index).val_as_Tensor(); }

  std::int64_t integer(std::int32_t index) const {
    const auto found = integers_.find(index);
    return found != integers_.end() ? found->second : value(index).val_as_Int()->int_val();
  }

  std::string constant(std::int32_t index) const {
    require(tensor(index).data_buffer_idx() != 0, "a table without data");
    return file_.constant(tensor(index));
  }

  // A constant that the delegate gets as an argument.
  Array constant_array(std::int32_t index) const {
    const std::string bytes = constant(index);
    const et::Tensor& constant = tensor(index);
    const bool half = constant.scalar_type() == et::ScalarType::HALF;
    require(half || constant.scalar_type() == et::ScalarType::FLOAT, "a constant argument of another type");
    Array array{.shape = {constant.sizes()->begin(), constant.sizes()->end()}, .values = {}};
    for (std::size_t i = 0; i < count(array.shape); ++i) {
      array.values.push_back(half ? f16(bytes, i) : static_cast<double>(load<float>(bytes, i)));
    }
    return array;
  }

  void kernel(const et::KernelCall& call) {
    const et::Operator& op = *file_.plan().operators()->Get(static_cast<std::uint32_t>(call.op_index()));
    const std::string name = op.name()->str() + "." + op.overload()->str();
    const std::vector<std::int32_t> arguments(call.args()->begin(), call.args()->end());
    if (name == "aten::sym_size.int") {
      integers_[arguments.at(2)] = arrays_.at(arguments[0]).shape.at(static_cast<std::size_t>(integer(arguments[1])));
      return;
    }
    require(arguments.at(arguments.size() - 1) == arguments.at(arguments.size() - 2), "out comes twice");
    const std::int32_t out = arguments.back();
    if (name == "aten::arange.out") {
      arrays_[out] = filled({integer(arguments[0])}, [](const Sizes& index) { return static_cast<double>(index[0]); });
    } else if (name == "aten::embedding.out") {
      const std::string table = constant(arguments[0]);
      const bool half = tensor(arguments[0]).scalar_type() == et::ScalarType::HALF;
      embed(out, arguments[1], tensor(arguments[0]), [&](std::size_t row, std::size_t column, std::size_t width) {
        return half ? f16(table, row * width + column) : static_cast<double>(load<float>(table, row * width + column));
      });
    } else if (name == "quantized_decomposed::embedding_byte.out") {
      require(integer(arguments[3]) == -128 && integer(arguments[4]) == 127, "embedding_byte's range");
      embed_quantized(out, arguments,
                      [](const std::string& table, std::size_t row, std::size_t column, std::size_t width) {
                        return load<std::int8_t>(table, row * width + column);
                      });
    } else if (name == "quantized_decomposed::embedding_4bit.out") {
      require(integer(arguments[3]) == -8 && integer(arguments[4]) == 7, "embedding_4bit's range");
      embed_quantized(out, arguments,
                      [](const std::string& table, std::size_t row, std::size_t column, std::size_t width) {
                        return nibble(table, (row * width + column) / 2, column % 2 == 0);  // even elements high
                      });
    } else {
      throw std::logic_error("operator " + name);
    }
  }

  void embed(std::int32_t out, std::int32_t ids, const et::Tensor& table,
             const std::function<double(std::size_t, std::size_t, std::size_t)>& element) {
    const auto width = static_cast<std::size_t>(tensor(out).sizes()->Get(2));
    const Array& rows = arrays_.at(ids);
    arrays_[out] = filled({1, tokens_, static_cast<std::int64_t>(width)}, [&](const Sizes& index) {
      const auto row = static_cast<std::int64_t>(rows.values.at(static_cast<std::size_t>(index[1])));
      require(row >= 0 && row < table.sizes()->Get(0), "an id beyond the table");
      return element(static_cast<std::size_t>(row), static_cast<std::size_t>(index[2]), width);
    });
  }

  template <typename Integer>
  void embed_quantized(std::int32_t out, const std::vector<std::int32_t>& arguments, Integer&& element) {
    const std::string table = constant(arguments[0]);
    const std::string scales = constant(arguments[1]);
    const et::Tensor& scale_tensor = tensor(arguments[1]);
    require(value(arguments[2]).val_type() == et::KernelTypes::Null, "zero points");
    const std::size_t groups =
        scale_tensor.sizes()->size() == 2 ? static_cast<std::size_t>(scale_tensor.sizes()->Get(1)) : 1;
    embed(out, arguments[5], tensor(arguments[0]), [&](std::size_t row, std::size_t column, std::size_t width) {
      const std::size_t group = column / (width / groups);
      return static_cast<double>(element(table, row, column, width)) *
             static_cast<double>(load<float>(scales, row * groups + group));
    });
  }

  void delegate(const et::DelegateCall& call) {
    std::map<std::uint32_t, Array> inputs;
    std::optional<std::int32_t> output;
    for (std::uint32_t i = 0; i < call.args()->size(); ++i) {
      const std::int32_t argument = call.args()->Get(i);
      if (tensor(argument).data_buffer_idx() != 0) {
        inputs[i] = constant_array(argument);
      } else if (arrays_.contains(argument)) {
        inputs[i] = arrays_.at(argument);
      } else {
        require(!output, "a second argument without a value");
        output = argument;
      }
    }
    require(output.has_value(), "a delegate call without an output");
    arrays_[*output] = Delegate(file_, tokens_, bound_).run(inputs);
  }

  const Pte& file_;
  const std::vector<std::int64_t>& ids_;
  std::int64_t tokens_;
  std::int64_t bound_ = 0;
  std::map<std::int32_t, Array> arrays_;
  std::map<std::int32_t, std::int64_t> integers_;
};

}  // namespace

Array run_program(const std::string& pte, const std::vector<std::int64_t>& ids) {
  const Pte file(pte);
  return Method(file, ids).run();
}

}  // namespace diffulex_edge::testing
