#include "backends/xnnpack/lowering.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "backends/xnnpack/static_linear.h"
#include "diffulex_edge/error.h"
#include "graph/graph_parts.h"
#include "quant/kernels/kernels.h"

namespace diffulex_edge::xnnpack {
namespace {

using executorch::schema::ScalarType;

constexpr std::uint32_t kTransposeB = 1;

bool taken_natively(Op op) {
  return op == Op::kEmbedding || op == Op::kLinear || op == Op::kRmsNorm || op == Op::kLayerNorm;
}

Datatype datatype(DType dtype) { return dtype == DType::kF16 ? Datatype::fp16 : Datatype::fp32; }

std::vector<std::uint32_t> upper_bounds(const Shape& shape) {
  std::vector<std::uint32_t> dims;
  for (const Dim& dim : shape) {
    dims.push_back(static_cast<std::uint32_t>(dim.value));
  }
  return dims;
}

// How a linear layer is computed.
struct LinearKernel {
  std::string name;              // input x weight, in XNNPACK's terms
  bool quantizes_input = false;  // per token, at run time
  DType input = DType::kF32;     // where it does not
  DType output = DType::kF32;
  bool bias_inside = true;  // false: a separate Add, in the output's type
};

// Every value of the model graph exists in the delegate in one type at first, and in others where a consumer needs it:
// the conversions are made once.
struct Mapped {
  std::optional<XnnId> f32;
  std::optional<XnnId> f16;
  std::optional<XnnId> per_token;
  std::vector<std::pair<AffineScale, XnnId>> static_int8;  // in 8 bits, with scales from calibration
  DType native = DType::kF32;                              // in which it was made
  DType flow = DType::kF32;  // in which its consumers compute, if they have no wish of their own

  std::optional<XnnId>& in(DType dtype) { return dtype == DType::kF16 ? f16 : f32; }
};

class Lowering {
 public:
  Lowering(const Model& model, const QuantizationResult& quantization, ActivationDtype activation_dtype)
      : plan_(quantization.plan),
        graph_(decompose(model.graph, taken_natively)),
        compute_(activation_dtype == ActivationDtype::FP16 ? DType::kF16 : DType::kF32),
        result_(
            std::make_unique<LoweredProgram>(WeightStore(*model.checkpoint, quantization.plan.config.saturate_fp16))),
        mapped_(graph_.nodes().size()),
        is_used_(used_values(graph_)) {
    result_->warnings = quantization.warnings;
  }

  std::unique_ptr<LoweredProgram> run() {
    for (std::size_t i = 0; i < graph_.nodes().size(); ++i) {
      lower_node(static_cast<ValueId>(i));
    }
    finish();
    return std::move(result_);
  }

 private:
  DelegateGraph& delegate() { return result_->delegate; }
  executorch::ProgramBuilder& program() { return result_->program; }
  Mapped& mapped(ValueId value) { return mapped_[static_cast<std::size_t>(value)]; }
  const Node& node(ValueId value) const { return graph_.node(value); }

  // --- Values.

  // The value in the wanted type, converted if need be.
  XnnId get(ValueId value, DType dtype) {
    std::optional<XnnId>& slot = mapped(value).in(dtype);
    if (!slot) {
      slot = node(value).op == Op::kConstant ? constant(value, dtype) : convert(value, dtype);
    }
    return *slot;
  }

  XnnId convert(ValueId value, DType dtype) {
    const std::optional<XnnId> source = mapped(value).in(mapped(value).native);
    if (!source) {
      throw Error(ErrorCode::kInternal, std::string(to_string(node(value).op)), "has no value in the delegate");
    }
    const XnnId target = delegate().value(datatype(dtype), upper_bounds(node(value).shape));
    delegate().unary(NodeUnion::Convert, *source, target);
    return target;
  }

  // Quantized from the type in which the layer's result will be: XNNPACK's FP16 kernels read the scales that a
  // conversion from FP16 leaves, and give NaN with those of a conversion from FP32.
  XnnId per_token(ValueId value) {
    std::optional<XnnId>& slot = mapped(value).per_token;
    if (!slot) {
      slot = delegate().quantized_value(Datatype::qdint8, upper_bounds(node(value).shape), PerToken{});
      delegate().unary(NodeUnion::Convert, get(value, compute_), *slot);
    }
    return *slot;
  }

  // In 8 bits with a scale from calibration. Layers that share an input and its range share the conversion, too.
  XnnId static_int8(ValueId value, const AffineScale& scale) {
    for (const auto& [known, id] : mapped(value).static_int8) {
      if (known == scale) {
        return id;
      }
    }
    const XnnId id = delegate().quantized_value(Datatype::qint8, upper_bounds(node(value).shape), scale);
    delegate().unary(NodeUnion::Convert, get(value, DType::kF32), id);
    mapped(value).static_int8.emplace_back(scale, id);
    return id;
  }

  XnnId constant(ValueId value, DType dtype) {
    const auto& values = std::get<ConstantAttributes>(node(value).attributes).values;
    return computed_constant(values, upper_bounds(node(value).shape), dtype);
  }

  XnnId computed_constant(const std::vector<float>& values, std::vector<std::uint32_t> dims, DType dtype) {
    std::vector<std::uint16_t> halves(values.size());
    kernels::f32_to_f16(values.data(), halves.data(), values.size());
    const auto bytes = dtype == DType::kF16 ? std::as_bytes(std::span(halves)) : std::as_bytes(std::span(values));
    const std::string key = "constant." + std::to_string(result_->weights.segments().size());
    const std::uint32_t segment = result_->weights.add_computed(key, bytes);
    return delegate().constant_value(datatype(dtype), std::move(dims), constant_index(segment, bytes.size()));
  }

  // The delegate's own number for a segment of which it uses `bytes`.
  std::uint32_t constant_index(std::uint32_t segment, std::size_t bytes) {
    const auto [position, inserted] = constant_indices_.emplace(std::pair(segment, bytes), 0);
    if (inserted) {
      position->second = delegate().constant(result_->weights.segments()[segment].key, bytes);
    }
    return position->second;
  }

  // A new value of the delegate that stands for `value`; the graph's output becomes the delegate's.
  XnnId define(ValueId value, DType dtype) {
    const std::vector<std::uint32_t> dims = upper_bounds(node(value).shape);
    const bool is_output = value == graph_.output() && dtype == DType::kF32;
    const XnnId id = is_output ? define_output(dims) : delegate().value(datatype(dtype), dims);
    mapped(value).native = mapped(value).flow = dtype;
    mapped(value).in(dtype) = id;
    return id;
  }

  XnnId define_output(const std::vector<std::uint32_t>& dims) {
    output_defined_ = true;
    return delegate().external_output(Datatype::fp32, dims);
  }

  // The type in which an operator computes that takes one or two values: FP16 as soon as one of them flows in FP16.
  DType common_type(const Node& node) {
    const bool half = std::ranges::any_of(node.inputs, [&](ValueId input) {
      return this->node(input).op != Op::kConstant && mapped(input).flow == DType::kF16;
    });
    return half ? DType::kF16 : DType::kF32;
  }

  // --- Operators.

  void lower_node(ValueId value) {
    const Node& current = node(value);
    switch (current.op) {
      case Op::kInput:
        return input(value);
      case Op::kWeight:
      case Op::kConstant:
        return;  // made where they are used
      case Op::kPositions:
        return positions(value);
      case Op::kPositionTable:
        return position_table(value);
      case Op::kEmbedding:
      case Op::kGather:
        return embedding(value);
      case Op::kLinear:
        return linear(value);
      case Op::kRmsNorm:
        return rms_norm(value);
      case Op::kReduceMean: {
        const XnnId input = get(current.inputs[0], DType::kF32);
        return row_mean(input, upper_bounds(node(current.inputs[0]).shape), 0.0F, define(value, DType::kF32));
      }
      case Op::kAdd:
        return binary(value, NodeUnion::Add);
      case Op::kSubtract:
        return binary(value, NodeUnion::Subtract);
      case Op::kMultiply:
        return binary(value, NodeUnion::Multiply);
      case Op::kNegate:
        return unary(value, NodeUnion::Negate);
      case Op::kDivide:
        return binary(value, NodeUnion::Div);
      case Op::kSquare:
        return unary(value, NodeUnion::Square);
      case Op::kSquareRoot:
        return unary(value, NodeUnion::SquareRoot);
      case Op::kTanh:
        return unary(value, NodeUnion::Tanh);
      case Op::kExp:
        return unary(value, NodeUnion::Exp);
      case Op::kGelu:
        return gelu(value);
      case Op::kReciprocalSquareRoot:
        return unary(value, NodeUnion::ReciprocalSquareRoot);
      case Op::kSigmoid:
        return unary(value, NodeUnion::Sigmoid);
      case Op::kSin:
        return unary(value, NodeUnion::Sin);
      case Op::kCos:
        return unary(value, NodeUnion::Cos);
      case Op::kFloor:
        return unary(value, NodeUnion::Floor);
      case Op::kSoftmax:
        return unary(value, NodeUnion::Softmax);
      case Op::kClamp: {
        const auto& range = std::get<ClampAttributes>(current.attributes);
        const DType type = common_type(current);
        const XnnId input = get(current.inputs[0], type);
        return delegate().clamp(input, define(value, type), range.min, range.max);
      }
      case Op::kMatMul: {
        const bool transpose_b = std::get<MatMulAttributes>(current.attributes).transpose_b;
        return binary(value, NodeUnion::BatchMatrixMultiply, transpose_b ? kTransposeB : 0);
      }
      case Op::kReshape:
      case Op::kTranspose:
      case Op::kSlice:
      case Op::kConcat:
        return rearrange(value);
      case Op::kLayerNorm:
        return layer_norm(value);
      case Op::kRope:
      case Op::kAttention:
      case Op::kSwiGlu:
      case Op::kBlockCausalMask:
        break;
    }
    throw Error(ErrorCode::kInternal, std::string(to_string(current.op)), "was not decomposed");
  }

  // An argument of the method: ids go to operators outside the delegate, numbers into it.
  void input(ValueId value) {
    const Node& current = node(value);
    const bool is_float = current.dtype == DType::kF32;
    const auto tensor = program().planned_tensor(is_float ? ScalarType::FLOAT : integer_type(current), current.shape);
    program().set_input(tensor);
    inputs_.emplace(value, tensor);
    if (is_float && is_used_.at(static_cast<std::size_t>(value))) {
      delegate_input(value, tensor, DType::kF32);
      mapped(value).flow = compute_;
    }
  }

  static ScalarType integer_type(const Node& input) {
    return input.dtype == DType::kI32 ? ScalarType::INT : ScalarType::LONG;
  }

  void gelu(ValueId value) {
    if (!std::get<GeluAttributes>(node(value).attributes).tanh) {
      return unary(value, NodeUnion::Gelu);
    }
    const DType type = common_type(node(value));
    const XnnId x = get(node(value).inputs[0], type);
    const std::vector<std::uint32_t> dims = upper_bounds(node(value).shape);
    const auto make = [&] { return delegate().value(datatype(type), dims); };
    const auto times = [&](XnnId a, XnnId b) {
      const XnnId product = make();
      delegate().binary(NodeUnion::Multiply, a, b, product);
      return product;
    };
    const auto plus = [&](XnnId a, XnnId b) {
      const XnnId sum = make();
      delegate().binary(NodeUnion::Add, a, b, sum);
      return sum;
    };
    const auto scalar = [&](float number) { return computed_constant({number}, {1}, type); };
    // sqrt(2 / pi) x (1 + 0.044715 x^2)
    const XnnId square = make();
    delegate().unary(NodeUnion::Square, x, square);
    const XnnId argument = times(times(x, scalar(0.7978845608F)), plus(times(square, scalar(0.044715F)), scalar(1.0F)));
    const XnnId hyperbolic = make();
    delegate().unary(NodeUnion::Tanh, argument, hyperbolic);
    const XnnId half = times(x, scalar(0.5F));
    delegate().binary(NodeUnion::Multiply, half, plus(hyperbolic, scalar(1.0F)), define(value, type));
  }

  void unary(ValueId value, NodeUnion kind) {
    const DType type = common_type(node(value));
    const XnnId input = get(node(value).inputs[0], type);
    delegate().unary(kind, input, define(value, type));
  }

  void binary(ValueId value, NodeUnion kind, std::uint32_t flags = 0) {
    const DType type = common_type(node(value));
    const XnnId a = get(node(value).inputs[0], type);
    const XnnId b = get(node(value).inputs[1], type);
    delegate().binary(kind, a, b, define(value, type), flags);
  }

  void rearrange(ValueId value) {
    const Node& current = node(value);
    const DType type = common_type(current);
    std::vector<XnnId> inputs;
    for (const ValueId input : current.inputs) {
      inputs.push_back(get(input, type));
    }
    const XnnId output = define(value, type);
    if (current.op == Op::kReshape) {
      std::vector<std::uint32_t> shape;
      for (const Dim& dim : current.shape) {
        shape.push_back(dim.is_sequence ? 0 : static_cast<std::uint32_t>(dim.value));
      }
      delegate().reshape(inputs[0], output, std::move(shape));
    } else if (current.op == Op::kTranspose) {
      const auto& axes = std::get<AxesAttributes>(current.attributes).axes;
      delegate().transpose(inputs[0], output, {axes.begin(), axes.end()});
    } else if (current.op == Op::kSlice) {
      const auto& range = std::get<SliceAttributes>(current.attributes);
      std::vector<std::uint32_t> offsets(current.shape.size(), 0);
      std::vector<std::uint32_t> sizes(current.shape.size(), 0);  // 0: the whole axis
      offsets[static_cast<std::size_t>(range.axis)] = static_cast<std::uint32_t>(range.begin);
      sizes[static_cast<std::size_t>(range.axis)] = static_cast<std::uint32_t>(range.end - range.begin);
      delegate().slice(inputs[0], output, std::move(offsets), std::move(sizes));
    } else {
      const auto axis = std::get<AxesAttributes>(current.attributes).axes[0];
      delegate().concatenate(inputs, output, static_cast<std::uint32_t>(axis));
    }
  }

  // Mean over the last axis plus a constant: XNNPACK has no mean, but a fully-connected layer with one row of 1/size.
  void row_mean(XnnId input, const std::vector<std::uint32_t>& dims, float shift, XnnId output) {
    const std::uint32_t size = dims.back();
    const std::vector<float> row(size, 1.0F / static_cast<float>(size));
    const XnnId filter = computed_constant(row, {1, size}, DType::kF32);
    const XnnId bias = shift == 0.0F ? kNoValue : computed_constant({shift}, {1}, DType::kF32);
    delegate().fully_connected(input, filter, bias, output);
  }

  // x / sqrt(mean(x^2) + epsilon) over the last axis, always in FP32: squares overflow FP16 from 256 on. The result is
  // `target`, or a new value.
  XnnId normalize(XnnId x, float epsilon, std::optional<XnnId> target = std::nullopt) {
    const std::vector<std::uint32_t> dims = delegate().dims(x);
    const XnnId square = delegate().value(Datatype::fp32, dims);
    const XnnId mean = delegate().value(Datatype::fp32, row_dims(dims));
    const XnnId reciprocal = delegate().value(Datatype::fp32, row_dims(dims));
    const XnnId result = target ? *target : delegate().value(Datatype::fp32, dims);
    delegate().unary(NodeUnion::Square, x, square);
    row_mean(square, dims, epsilon, mean);
    delegate().unary(NodeUnion::ReciprocalSquareRoot, mean, reciprocal);
    delegate().binary(NodeUnion::Multiply, x, reciprocal, result);
    return result;
  }

  static std::vector<std::uint32_t> row_dims(std::vector<std::uint32_t> dims) {
    dims.back() = 1;
    return dims;
  }

  void rms_norm(ValueId value) {
    const Node& current = node(value);
    const XnnId x = get(current.inputs[0], DType::kF32);
    const XnnId normalized = normalize(x, std::get<RmsNormAttributes>(current.attributes).epsilon);
    const XnnId weight = vector_weight(current, current.inputs[1], DType::kF32);
    delegate().binary(NodeUnion::Multiply, normalized, weight, define(value, DType::kF32));
    mapped(value).flow = compute_;
  }

  void layer_norm(ValueId value) {
    const Node& current = node(value);
    const XnnId x = get(current.inputs[0], DType::kF32);
    const std::vector<std::uint32_t> dims = upper_bounds(current.shape);
    const XnnId mean = delegate().value(Datatype::fp32, row_dims(dims));
    const XnnId centered = delegate().value(Datatype::fp32, dims);
    row_mean(x, dims, 0.0F, mean);
    delegate().binary(NodeUnion::Subtract, x, mean, centered);
    // What a step of several makes: the last one makes the value itself.
    const auto result_of = [&](std::size_t step) {
      return step + 1 == current.inputs.size() ? define(value, DType::kF32) : delegate().value(Datatype::fp32, dims);
    };
    XnnId result = normalize(centered, std::get<LayerNormAttributes>(current.attributes).epsilon, result_of(0));
    for (std::size_t i = 1; i < current.inputs.size(); ++i) {
      const XnnId next = result_of(i);
      const XnnId weight = vector_weight(current, current.inputs[i], DType::kF32);
      delegate().binary(i == 1 ? NodeUnion::Multiply : NodeUnion::Add, result, weight, next);
      result = next;
    }
    mapped(value).flow = compute_;
  }

  // --- Weights.

  const LayerPlan& layer_plan(const Node& user, ValueId weight) const {
    return plan_.at(user.name, graph_.tensor(weight));
  }

  void note_layer(const LayerPlan& plan, std::string kernel, std::int64_t stored_bytes) {
    result_->layers.push_back({.plan = plan, .kernel = std::move(kernel), .stored_bytes = stored_bytes});
  }

  // A norm's weight or a bias.
  XnnId vector_weight(const Node& user, ValueId weight, DType dtype) {
    const LayerPlan& plan = layer_plan(user, weight);
    const ElementType element = dtype == DType::kF16 ? ElementType::kF16 : ElementType::kF32;
    const StoredParts parts = result_->weights.add_vector(plan, element);
    LayerPlan stored = plan;
    stored.format = float_format(element);
    note_layer(stored, "", parts.is_new ? parts.values_bytes : 0);
    const auto bytes = static_cast<std::size_t>(parts.values_bytes);
    return delegate().constant_value(datatype(dtype), upper_bounds(node(weight).shape),
                                     constant_index(parts.values_segment, bytes));
  }

  LinearKernel choose_kernel(const LayerPlan& plan) {
    const bool dynamic = plan_.config.mode == QuantizationMode::DYNAMIC;
    const bool half = compute_ == DType::kF16;
    const std::string compute = half ? "f16" : "f32";
    LinearKernel kernel;
    switch (plan.format.element) {
      case ElementType::kF32:
        kernel.name = "f32 x f32";
        return kernel;
      case ElementType::kF16:
        kernel.name = compute + " x f16";
        kernel.input = kernel.output = compute_;
        kernel.bias_inside = !half;
        expands_fp16_ = expands_fp16_ || !half;
        return kernel;
      case ElementType::kI8:
      case ElementType::kI4:
        break;
      case ElementType::kBF16:
      case ElementType::kI32:
        throw Error(ErrorCode::kInternal, plan.layer, to_string(plan.format) + " is not a stored format here");
    }
    const bool grouped = plan.format.granularity == Granularity::kGroup;
    const std::string int4 = grouped ? "qb4w" : "qc4w";
    const std::string weight = plan.format.element == ElementType::kI8 ? "qc8w" : int4;
    if (half && plan.format.element == ElementType::kI4 && !grouped) {
      throw Error(ErrorCode::kUnsupported, plan.layer,
                  "XNNPACK has no kernel for FP16 activations with INT4 weights that have one scale per channel",
                  "use groups, or FP32 activations");
    }
    if (dynamic || grouped) {
      kernel.name = "qd8 x " + weight;
      kernel.quantizes_input = true;
      kernel.output = compute_;
      kernel.bias_inside = !half;
      forced_dynamic_ = forced_dynamic_ || !dynamic;
      return kernel;
    }
    if (half) {
      throw Error(ErrorCode::kUnsupported, plan.layer,
                  "XNNPACK has no kernel for FP16 activations with " + to_string(plan.format) + " weights",
                  "use --mode dynamic, or FP32 activations");
    }
    kernel.name = "f32 x " + weight;
    kernel.bias_inside = false;  // these kernels scale the bias like a weight
    return kernel;
  }

  // `static_linear`: of a layer with static activations, else nullptr.
  XnnId filter(const LayerPlan& plan, const std::shared_ptr<const StaticLinear>& static_linear = nullptr) {
    const StoredParts parts = result_->weights.add_filter(plan);
    const bool channel_scales = plan.format.granularity == Granularity::kChannel;
    const std::vector<std::uint32_t> dims = {static_cast<std::uint32_t>(plan.rows),
                                             static_cast<std::uint32_t>(plan.columns)};
    const std::uint32_t index = constant_index(parts.values_segment, static_cast<std::size_t>(parts.values_bytes));
    const std::int64_t own_scales = channel_scales || parts.is_new ? plan.scale_bytes() : 0;
    stored_bytes_ = (parts.is_new ? parts.values_bytes : 0) + own_scales;
    switch (plan.format.element) {
      case ElementType::kF32:
        return delegate().constant_value(Datatype::fp32, dims, index);
      case ElementType::kF16:
        return delegate().constant_value(Datatype::fp16, dims, index);
      default:
        break;
    }
    if (parts.scales_segment.has_value()) {
      const PerGroupScales scales{
          .group_size = static_cast<std::uint32_t>(plan.format.group_size),
          .constant_index = constant_index(*parts.scales_segment, static_cast<std::size_t>(parts.scales_bytes)),
          .count = static_cast<std::uint32_t>(parts.scales_bytes / 2)};
      return delegate().constant_value(Datatype::qbint4, dims, index, scales);
    }
    const Datatype type = plan.format.element == ElementType::kI8 ? Datatype::qcint8 : Datatype::qcint4;
    PerChannelScales scales{.scales = std::vector<float>(static_cast<std::size_t>(plan.rows), 1.0F)};
    const XnnId id = delegate().constant_value(type, dims, index, std::move(scales));
    DelegateGraph* graph = &delegate();
    const auto receive = [=](std::int64_t row, std::span<const float> tile, std::span<const std::byte> values) {
      const auto target = std::span(graph->channel_scales(id)).subspan(static_cast<std::size_t>(row), tile.size());
      std::ranges::copy(tile, target.begin());
      if (static_linear) {
        static_linear->refine_zero_rows(target, values);
      }
    };
    result_->weights.on_channel_scales(plan, receive);
    return id;
  }

  void linear(ValueId value) {
    const Node& current = node(value);
    const LayerPlan& plan = layer_plan(current, current.inputs[1]);
    if (plan.activations) {
      return linear_in_int8(value, plan);
    }
    const LinearKernel kernel = choose_kernel(plan);
    const XnnId weight = filter(plan);
    note_layer(plan, kernel.name, stored_bytes_);
    const XnnId input = kernel.quantizes_input ? per_token(current.inputs[0]) : get(current.inputs[0], kernel.input);
    const bool has_bias = current.inputs.size() == 3;
    if (!has_bias || kernel.bias_inside) {
      const XnnId bias = has_bias ? vector_weight(current, current.inputs[2], DType::kF32) : kNoValue;
      delegate().fully_connected(input, weight, bias, define(value, kernel.output));
      return;
    }
    const XnnId product = delegate().value(datatype(kernel.output), upper_bounds(current.shape));
    delegate().fully_connected(input, weight, kNoValue, product);
    const XnnId bias = vector_weight(current, current.inputs[2], kernel.output);
    delegate().binary(NodeUnion::Add, product, bias, define(value, kernel.output));
  }

  // Converted to 8 bits from FP32 and back to it, whatever the type in which activations flow: a norm's result is in
  // FP32 anyway, and the runtime's direct conversion from FP16 rounds to the neighbouring step at times.
  void linear_in_int8(ValueId value, const LayerPlan& plan) {
    const Node& current = node(value);
    const auto layer = std::make_shared<const StaticLinear>(plan);
    const XnnId weight = filter(plan, layer);
    note_layer(plan, plan.format.element == ElementType::kI8 ? "qs8 x qc8w" : "qs8 x qc4w", stored_bytes_);
    DelegateGraph* graph = &delegate();
    result_->weights.on_streamed([=](const WeightStore::Write&) { layer->check(graph->channel_scales(weight)); });
    const XnnId input = static_int8(current.inputs[0], layer->input());
    const bool has_bias = current.inputs.size() == 3;
    const XnnId bias = has_bias ? static_bias(current, weight, layer) : kNoValue;
    const XnnId product = delegate().quantized_value(Datatype::qint8, upper_bounds(current.shape), layer->output());
    delegate().fully_connected(input, weight, bias, product);
    delegate().unary(NodeUnion::Convert, product, define(value, DType::kF32));
    mapped(value).flow = compute_;
  }

  // In 32-bit integers that count steps of input scale times weight scale: computed when the latter are known.
  XnnId static_bias(const Node& user, XnnId weight, const std::shared_ptr<const StaticLinear>& layer) {
    LayerPlan plan = layer_plan(user, user.inputs[2]);
    const auto rows = static_cast<std::size_t>(plan.columns);
    const std::size_t bytes = rows * sizeof(std::int32_t);
    WeightStore& weights = result_->weights;
    const std::uint32_t segment = weights.add_reserved(plan.tensor + ":i32", static_cast<std::int64_t>(bytes));
    const XnnId id =
        delegate().constant_value(Datatype::qcint32, {static_cast<std::uint32_t>(rows)}, constant_index(segment, bytes),
                                  PerChannelScales{.scales = std::vector<float>(rows, 1.0F)});
    DelegateGraph* graph = &delegate();
    weights.on_streamed([=, &weights](const WeightStore::Write& write) {
      const std::vector<float>& scales = graph->channel_scales(weight);
      const std::vector<std::int32_t> steps = layer->quantize_bias(weights.read_vector(plan), scales);
      graph->channel_scales(id) = layer->bias_scales(scales);
      write(segment, 0, std::as_bytes(std::span(steps)));
    });
    plan.format = {.element = ElementType::kI32, .granularity = Granularity::kChannel};
    note_layer(plan, "", static_cast<std::int64_t>(2 * bytes));  // with one float32 scale for each value
    return id;
  }

  // --- Outside the delegate.

  void embedding(ValueId value) {
    const Node& current = node(value);
    const LayerPlan& plan = layer_plan(current, current.inputs[0]);
    if (plan.format.element == ElementType::kI4 && plan.columns % 2 != 0) {
      throw Error(ErrorCode::kUnsupported, plan.layer, "an INT4 embedding needs an even width");
    }
    const StoredParts parts = result_->weights.add_embedding(plan);
    const auto ids = inputs_.at(current.inputs[1]);
    const bool half = plan.format.element == ElementType::kF16;
    const auto output = program().planned_tensor(half ? ScalarType::HALF : ScalarType::FLOAT, current.shape);
    std::string kernel;
    if (plan.format.is_quantized()) {
      kernel = quantized_embedding(plan, parts, ids, output);
    } else {
      kernel = "aten::embedding";
      const auto table =
          program().constant_tensor(half ? ScalarType::HALF : ScalarType::FLOAT, {plan.rows, plan.columns},
                                    program_constant(parts.values_segment, 0));
      program().kernel_call(
          kernel, "out",
          {table, ids, program().integer(-1), program().boolean(false), program().boolean(false), output, output});
    }
    note_layer(plan, kernel, parts.is_new ? parts.values_bytes + parts.scales_bytes : 0);
    delegate_input(value, output, half ? DType::kF16 : DType::kF32);
    mapped(value).flow = compute_;
  }

  // A constant of an operator outside the delegate.
  executorch::ConstantIndex program_constant(std::uint32_t segment, std::int64_t offset) {
    result_->constants.push_back({.segment = segment, .offset = offset});
    return static_cast<executorch::ConstantIndex>(result_->constants.size());  // 0 is unused
  }

  std::string quantized_embedding(const LayerPlan& plan, const StoredParts& parts, std::int32_t ids,
                                  std::int32_t output) {
    const bool packed = plan.format.element == ElementType::kI4;
    const auto table = program().constant_tensor(packed ? ScalarType::BYTE : ScalarType::CHAR,
                                                 {plan.rows, packed ? plan.columns / 2 : plan.columns},
                                                 program_constant(parts.values_segment, 0));
    std::vector<std::int64_t> scale_sizes = {plan.rows};
    if (plan.format.granularity == Granularity::kGroup) {
      scale_sizes.push_back(plan.format.scales_per_row(plan.columns));
    }
    const auto scales = program().constant_tensor(ScalarType::FLOAT, scale_sizes,
                                                  program_constant(parts.values_segment, parts.scales_offset));
    const std::string kernel = packed ? "quantized_decomposed::embedding_4bit" : "quantized_decomposed::embedding_byte";
    program().kernel_call(kernel, "out",
                          {table, scales, program().null(), program().integer(packed ? -8 : -128),
                           program().integer(packed ? 7 : 127), ids, output, output});
    return kernel;
  }

  // The number of tokens at run time, from an argument that has them as a dimension.
  std::int32_t length_of(ValueId input) {
    if (length_) {
      return *length_;
    }
    const Shape& shape = node(input).shape;
    const auto axis = std::ranges::find_if(shape, &Dim::is_sequence) - shape.begin();
    const auto length = program().integer(0);
    program().kernel_call("aten::sym_size", "int", {inputs_.at(input), program().integer(axis), length});
    length_ = length;
    return length;
  }

  void positions(ValueId value) {
    const auto length = length_of(node(value).inputs[0]);
    const auto tensor = program().planned_tensor(ScalarType::FLOAT, node(value).shape);
    program().kernel_call("aten::arange", "out", {length, tensor, tensor});
    delegate_input(value, tensor, DType::kF32);
  }

  void position_table(ValueId value) {
    const Node& current = node(value);
    const auto length = length_of(current.inputs[0]);
    const Node& source = node(current.inputs[1]);
    const auto& values = std::get<ConstantAttributes>(source.attributes).values;
    const std::string key = "constant." + std::to_string(result_->weights.segments().size());
    const std::uint32_t segment = result_->weights.add_computed(key, std::as_bytes(std::span(values)));
    const auto table =
        program().constant_tensor(ScalarType::FLOAT, sizes_at(source.shape, 0), program_constant(segment, 0));
    const auto tensor = program().planned_tensor(ScalarType::FLOAT, current.shape);
    program().kernel_call(
        "aten::slice_copy", "Tensor_out",
        {table, program().integer(0), program().integer(0), length, program().integer(1), tensor, tensor});
    delegate_input(value, tensor, DType::kF32);
  }

  void delegate_input(ValueId value, std::int32_t tensor, DType dtype) {
    mapped(value).native = mapped(value).flow = dtype;
    mapped(value).in(dtype) = delegate().external_input(datatype(dtype), upper_bounds(node(value).shape));
    arguments_.push_back(tensor);
  }

  void finish() {
    const ValueId output = graph_.output();
    if (!output_defined_) {
      const XnnId source = get(output, mapped(output).native);
      delegate().unary(NodeUnion::Convert, source, define_output(upper_bounds(node(output).shape)));
    }
    const auto logits = program().planned_tensor(ScalarType::FLOAT, node(output).shape);
    program().set_output(logits);
    arguments_.push_back(logits);
    const auto payload_segment = static_cast<std::uint32_t>(result_->weights.segments().size());
    program().delegate_call("XnnpackBackend", arguments_, payload_segment);
    add_warnings();
  }

  void add_warnings() {
    if (forced_dynamic_) {
      result_->warnings.emplace_back(
          "INT4 in groups runs with activations quantized to 8 bits for each token (qd8 x qb4w): XNNPACK has no kernel "
          "for groups with floating-point activations");
    }
    if (expands_fp16_) {
      result_->warnings.emplace_back(
          "FP16 weights are half the size in the file; XNNPACK expands them to FP32 in memory when it loads them "
          "(--activation-dtype fp16 keeps them in FP16)");
    }
  }

  const QuantizationPlan& plan_;
  diffulex_edge::Graph graph_;
  DType compute_;
  std::unique_ptr<LoweredProgram> result_;
  std::vector<Mapped> mapped_;
  std::vector<bool> is_used_;  // by ValueId
  std::map<std::pair<std::uint32_t, std::size_t>, std::uint32_t> constant_indices_;
  std::vector<std::int32_t> arguments_;     // of the delegate call
  std::map<ValueId, std::int32_t> inputs_;  // the program's tensors
  std::optional<std::int32_t> length_;      // the program's integer
  std::int64_t stored_bytes_ = 0;           // of the last filter
  bool output_defined_ = false;
  bool forced_dynamic_ = false;
  bool expands_fp16_ = false;
};

}  // namespace

std::unique_ptr<LoweredProgram> lower(const Model& model, const QuantizationResult& quantization,
                                      ActivationDtype activation_dtype) {
  return Lowering(model, quantization, activation_dtype).run();
}

}  // namespace diffulex_edge::xnnpack
