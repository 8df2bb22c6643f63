#include "backends/xnnpack/delegate_values.h"

#include <algorithm>
#include <span>

#include "diffulex_edge/error.h"
#include "graph/graph_parts.h"
#include "quant/affine_scale.h"
#include "quant/kernels/kernels.h"

namespace diffulex_edge::xnnpack {
namespace {

using executorch::schema::ScalarType;

bool taken_natively(Op op) {
  return op == Op::kEmbedding || op == Op::kLinear || op == Op::kRmsNorm || op == Op::kLayerNorm;
}

}  // namespace

std::vector<std::uint32_t> upper_bounds(const Shape& shape) {
  std::vector<std::uint32_t> dims;
  for (const Dim& dim : shape) {
    dims.push_back(static_cast<std::uint32_t>(dim.value));
  }
  return dims;
}

std::string named_by(const std::string& name, const ContentDigest& digest) { return name + ":" + to_string(digest); }

DelegateValues::DelegateValues(const Model& model, const QuantizationResult& quantization)
    : plan_(quantization.plan),
      graph_(decompose(model.graph, taken_natively)),
      compute_(plan_.target.half == TargetArithmetic::Half::kNever ? DType::kF32 : DType::kF16),
      result_(std::make_unique<LoweredProgram>(WeightStore(*model.checkpoint, quantization.plan.config.saturate_fp16))),
      mapped_(graph_.nodes().size()),
      is_used_(used_values(graph_)) {
  result_->warnings = quantization.warnings;
}

XnnId DelegateValues::get(ValueId value, DType dtype) {
  std::optional<XnnId>& slot = mapped(value).in(dtype);
  if (!slot) {
    slot = node(value).op == Op::kConstant ? constant(value, dtype) : convert(value, dtype);
  }
  return *slot;
}

XnnId DelegateValues::convert(ValueId value, DType dtype) {
  const std::optional<XnnId> source = mapped(value).in(mapped(value).native);
  if (!source) {
    throw Error(ErrorCode::kInternal, std::string(to_string(node(value).op)), "has no value in the delegate");
  }
  const XnnId target = delegate().value(datatype(dtype), upper_bounds(node(value).shape));
  delegate().unary(NodeUnion::Convert, *source, target);
  return target;
}

XnnId DelegateValues::per_token(ValueId value) {
  std::optional<XnnId>& slot = mapped(value).per_token;
  if (!slot) {
    slot = delegate().quantized_value(Datatype::qdint8, upper_bounds(node(value).shape), PerToken{});
    delegate().unary(NodeUnion::Convert, get(value, compute_), *slot);
  }
  return *slot;
}

XnnId DelegateValues::static_int8(ValueId value, const AffineScale& scale) {
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

XnnId DelegateValues::constant(ValueId value, DType dtype) {
  const auto& values = std::get<ConstantAttributes>(node(value).attributes).values;
  return computed_operand(values, upper_bounds(node(value).shape), dtype);
}

std::uint32_t DelegateValues::computed_segment(const std::vector<float>& values, DType dtype) {
  const std::string name = "constant." + std::to_string(result_->weights.segments().size());
  if (dtype != DType::kF16) {
    return result_->weights.add_computed(name, std::as_bytes(std::span(values)));
  }
  std::vector<std::uint16_t> halves(values.size());
  kernels::f32_to_f16(values.data(), halves.data(), values.size());
  return result_->weights.add_computed(name, std::as_bytes(std::span(halves)));
}

XnnId DelegateValues::computed_operand(const std::vector<float>& values, const std::vector<std::uint32_t>& dims,
                                       DType dtype) {
  return constant_operand(computed_segment(values, dtype), dims, dtype);
}

XnnId DelegateValues::computed_weight(const std::vector<float>& values, std::vector<std::uint32_t> dims) {
  const std::uint32_t index = packed_constant(computed_segment(values, DType::kF32), values.size() * sizeof(float));
  return delegate().constant_value(Datatype::fp32, std::move(dims), index);
}

XnnId DelegateValues::constant_operand(std::uint32_t segment, const std::vector<std::uint32_t>& dims, DType dtype) {
  const auto [position, inserted] = operands_.emplace(std::pair(segment, dims), kNoValue);
  if (inserted) {
    const auto type = dtype == DType::kF16 ? ScalarType::HALF : ScalarType::FLOAT;
    arguments_.push_back(program().constant_tensor(type, {dims.begin(), dims.end()}, program_constant(segment, 0),
                                                   result_->weights.segments()[segment].name));
    position->second = delegate().external_input(datatype(dtype), dims);
  }
  return position->second;
}

std::uint32_t DelegateValues::packed_constant(std::uint32_t segment, std::size_t bytes, const std::string& packing) {
  const auto [position, inserted] = packed_constants_.emplace(std::tuple(segment, bytes, packing), 0);
  if (inserted) {
    const std::string name = result_->weights.segments()[segment].name;
    position->second = delegate().constant(named_by(name, {}), bytes);
    result_->named.push_back(
        {.name = named_by(name, {}), .segment = segment, .index = position->second, .packing = packing});
  }
  return position->second;
}

executorch::ConstantIndex DelegateValues::program_constant(std::uint32_t segment, std::int64_t offset) {
  result_->constants.push_back({.segment = segment, .offset = offset});
  return static_cast<executorch::ConstantIndex>(result_->constants.size());  // 0 is unused
}

XnnId DelegateValues::define(ValueId value, DType dtype) {
  const std::vector<std::uint32_t> dims = upper_bounds(node(value).shape);
  const bool is_output = value == graph_.output() && dtype == DType::kF32;
  const XnnId id = is_output ? define_output(dims) : delegate().value(datatype(dtype), dims);
  mapped(value).native = mapped(value).flow = dtype;
  mapped(value).in(dtype) = id;
  return id;
}

XnnId DelegateValues::define_output(const std::vector<std::uint32_t>& dims) {
  output_argument_ = arguments_.size();
  arguments_.push_back(-1);  // the tensor is made last
  return delegate().external_output(Datatype::fp32, dims);
}

void DelegateValues::delegate_input(ValueId value, std::int32_t tensor, DType dtype) {
  mapped(value).native = mapped(value).flow = dtype;
  mapped(value).in(dtype) = delegate().external_input(datatype(dtype), upper_bounds(node(value).shape));
  arguments_.push_back(tensor);
}

DType DelegateValues::common_type(const Node& node) {
  const bool half = std::ranges::any_of(node.inputs, [&](ValueId input) {
    return this->node(input).op != Op::kConstant && mapped(input).flow == DType::kF16;
  });
  return half ? DType::kF16 : DType::kF32;
}

const LayerPlan& DelegateValues::layer_plan(const Node& user, ValueId weight) const {
  return plan_.at(user.name, graph_.tensor(weight));
}

void DelegateValues::note_layer(const LayerPlan& plan, std::string kernel, std::int64_t stored_bytes) {
  result_->layers.push_back({.plan = plan, .kernel = std::move(kernel), .stored_bytes = stored_bytes});
}

XnnId DelegateValues::vector_operand(const Node& user, ValueId weight, DType dtype) {
  return constant_operand(stored_vector(user, weight, dtype).values_segment, upper_bounds(node(weight).shape), dtype);
}

StoredParts DelegateValues::stored_vector(const Node& user, ValueId weight, DType dtype) {
  const LayerPlan& plan = layer_plan(user, weight);
  const ElementType element = dtype == DType::kF16 ? ElementType::kF16 : ElementType::kF32;
  const StoredParts parts = result_->weights.add_vector(plan, element);
  LayerPlan stored = plan;
  stored.format = float_format(element);
  note_layer(stored, "", parts.is_new ? parts.values_bytes : 0);
  return parts;
}

std::unique_ptr<LoweredProgram> DelegateValues::finish() {
  const ValueId output = graph_.output();
  if (output_argument_ == kNoArgument) {
    const XnnId source = get(output, mapped(output).native);
    delegate().unary(NodeUnion::Convert, source, define_output(upper_bounds(node(output).shape)));
  }
  const auto logits = program().planned_tensor(ScalarType::FLOAT, node(output).shape);
  program().set_output(logits);
  arguments_.at(output_argument_) = logits;
  const auto payload_segment = static_cast<std::uint32_t>(result_->weights.segments().size());
  program().delegate_call("XnnpackBackend", arguments_, payload_segment);
  return std::move(result_);
}

}  // namespace diffulex_edge::xnnpack
