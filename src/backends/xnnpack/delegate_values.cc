#include "backends/xnnpack/delegate_values.h"

#include <algorithm>
#include <span>
#include <string_view>
#include <utility>

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

bool taken_natively_with_cache(Op op) {
  return taken_natively(op) || op == Op::kAttention || op == Op::kBlockCausalMask;
}

diffulex_edge::Graph lowered_graph(const Model& model, const std::optional<CachePlan>& cache) {
  if (!cache) {
    return decompose(model.graph, taken_natively);
  }
  return decompose(with_longest_sequence(model.graph, cache->block_tokens), taken_natively_with_cache);
}

// By ValueId, the last delegate that needs the value, where each attention begins a new one, and perhaps the head. An
// attention's keys and values are taken by the delegate before it, which writes them to the cache.
std::vector<std::size_t> last_delegates(const diffulex_edge::Graph& graph, const std::optional<CachePlan>& cache) {
  std::vector<std::size_t> last(graph.nodes().size(), 0);
  const bool cuts_head = cache && cache->logits != CachePlan::Logits::kAll;
  std::size_t delegate = 0;
  for (const Node& node : graph.nodes()) {
    const bool attends = cache && node.op == Op::kAttention;
    const bool cuts = attends || (cuts_head && &node == &graph.node(graph.output()));
    for (std::size_t i = 0; i < node.inputs.size(); ++i) {
      const bool before = attends && (i == 1 || i == 2);
      auto& of_input = last[static_cast<std::size_t>(node.inputs[i])];
      of_input = std::max(of_input, delegate + (cuts && !before ? 1 : 0));
    }
    delegate += cuts ? 1 : 0;
  }
  return last;
}

using PlanKey = std::pair<std::string_view, std::string_view>;

PlanKey key_of(const LayerPlan* plan) { return {plan->layer, plan->tensor}; }

std::vector<const LayerPlan*> sorted(const std::vector<LayerPlan>& plans) {
  std::vector<const LayerPlan*> result;
  result.reserve(plans.size());
  for (const LayerPlan& plan : plans) {
    result.push_back(&plan);
  }
  // Of equal keys the first plan comes first, as it is found without sorting.
  std::ranges::sort(result, {}, [](const LayerPlan* plan) { return std::pair(key_of(plan), plan); });
  return result;
}

}  // namespace

Datatype datatype(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return Datatype::fp32;
    case DType::kF16:
      return Datatype::fp16;
    case DType::kI8:
      return Datatype::qint8;
    default:
      throw Error(ErrorCode::kInternal, std::string(to_string(dtype)), "is no type of XNNPACK's values");
  }
}

ScalarType scalar_type(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return ScalarType::FLOAT;
    case DType::kF16:
      return ScalarType::HALF;
    case DType::kI8:
      return ScalarType::CHAR;
    default:
      throw Error(ErrorCode::kInternal, std::string(to_string(dtype)), "is no type of the program's tensors");
  }
}

std::vector<std::uint32_t> upper_bounds(const Shape& shape) {
  std::vector<std::uint32_t> dims;
  for (const Dim& dim : shape) {
    dims.push_back(static_cast<std::uint32_t>(dim.value));
  }
  return dims;
}

std::string named_by(const std::string& name, const ContentDigest& digest) { return name + ":" + to_string(digest); }

DelegateValues::DelegateValues(const Model& model, const QuantizationResult& quantization,
                               const std::optional<CachePlan>& cache)
    : plan_(quantization.plan),
      sorted_plans_(sorted(plan_.layers)),
      graph_(lowered_graph(model, cache)),
      compute_(plan_.target.half == TargetArithmetic::Half::kNever ? DType::kF32 : DType::kF16),
      result_(std::make_unique<LoweredProgram>(WeightStore(*model.checkpoint, quantization.plan.config.saturate_fp16))),
      mapped_(graph_.nodes().size()),
      is_used_(used_values(graph_)),
      last_delegates_(last_delegates(graph_, cache)) {
  result_->warnings = quantization.warnings;
  result_->layers.reserve(plan_.layers.size());
  result_->named.reserve(plan_.layers.size());
  result_->delegates.emplace_back();
}

XnnId DelegateValues::get(ValueId value, DType dtype) {
  std::optional<XnnId>& slot = mapped(value).in(dtype);
  if (!slot) {
    slot = node(value).op == Op::kConstant ? constant(value, dtype) : convert(value, dtype);
  }
  return *slot;
}

XnnId DelegateValues::convert(ValueId value, DType dtype) {
  std::optional<XnnId>& source = mapped(value).in(mapped(value).native);
  if (const auto passed = passing_.find(value); !source && passed != passing_.end()) {
    source = tensor_input(passed->second.tensor, passed->second.dtype, upper_bounds(node(value).shape));
  }
  if (source && mapped(value).native == dtype) {
    return *source;
  }
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
  const auto [position, inserted] = operands_.emplace(OperandKey(segment, dims), kNoValue);
  if (inserted) {
    const auto [tensor, is_new] = operand_tensors_.emplace(OperandKey(segment, dims), 0);
    if (is_new) {
      tensor->second = program().constant_tensor(scalar_type(dtype), {dims.begin(), dims.end()},
                                                 program_constant(segment, 0), segment_name(segment));
    }
    position->second = tensor_input(tensor->second, dtype, dims);
  }
  return position->second;
}

std::uint32_t DelegateValues::packed_constant(std::uint32_t segment, std::size_t bytes, const std::string& packing) {
  const std::size_t packing_number = packings_.emplace(packing, packings_.size()).first->second;
  const auto [known, is_new] = named_.emplace(ConstantKey(segment, bytes, packing_number), result_->named.size());
  if (is_new) {
    result_->named.push_back(
        {.name = named_by(segment_name(segment), {}), .segment = segment, .packing = packing, .uses = {}});
  }
  LoweredProgram::NamedConstant& constant = result_->named[known->second];
  const auto [position, inserted] = packed_constants_.emplace(known->second, 0);
  if (inserted) {
    position->second = delegate().constant(constant.name, bytes);
    constant.uses.emplace_back(result_->delegates.size() - 1, position->second);
  }
  return position->second;
}

executorch::ConstantIndex DelegateValues::program_constant(std::uint32_t segment, std::int64_t offset) {
  result_->constants.push_back({.segment = segment, .offset = offset});
  return static_cast<executorch::ConstantIndex>(result_->constants.size());  // 0 is unused
}

XnnId DelegateValues::define(ValueId value, DType dtype) {
  std::vector<std::uint32_t> dims = upper_bounds(node(value).shape);
  XnnId id = kNoValue;
  if (last_delegates_[static_cast<std::size_t>(value)] >= result_->delegates.size()) {
    const std::int32_t tensor = passing_tensor(value, dtype);
    passing_.insert_or_assign(value, Passing{.tensor = tensor, .dtype = dtype});
    id = tensor_output(tensor, dtype, std::move(dims));
  } else if (value == graph_.output() && dtype == DType::kF32) {
    id = define_output(dims);
  } else {
    id = delegate().value(datatype(dtype), std::move(dims));
  }
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
  mapped(value).in(dtype) = tensor_input(tensor, dtype, upper_bounds(node(value).shape));
  passing_.insert_or_assign(value, Passing{.tensor = tensor, .dtype = dtype});
}

XnnId DelegateValues::tensor_input(std::int32_t tensor, DType dtype, std::vector<std::uint32_t> dims,
                                   ValueQuantization quantization) {
  arguments_.push_back(tensor);
  return delegate().external_input(datatype(dtype), std::move(dims), std::move(quantization));
}

XnnId DelegateValues::tensor_output(std::int32_t tensor, DType dtype, std::vector<std::uint32_t> dims,
                                    ValueQuantization quantization) {
  arguments_.push_back(tensor);
  return delegate().external_output(datatype(dtype), std::move(dims), std::move(quantization));
}

std::int32_t DelegateValues::passing_tensor(ValueId value, DType dtype) {
  const auto found = std::ranges::find_if(no_longer_passing_, [&](ValueId old) {
    return passing_.at(old).dtype == dtype && node(old).shape == node(value).shape;
  });
  if (found == no_longer_passing_.end()) {
    return program().planned_tensor(scalar_type(dtype), node(value).shape);
  }
  const std::int32_t tensor = passing_.at(*found).tensor;
  no_longer_passing_.erase(found);
  return tensor;
}

DType DelegateValues::common_type(const Node& node) {
  const bool half = std::ranges::any_of(node.inputs, [&](ValueId input) {
    return this->node(input).op != Op::kConstant && mapped(input).flow == DType::kF16;
  });
  return half ? DType::kF16 : DType::kF32;
}

const LayerPlan& DelegateValues::layer_plan(const Node& user, ValueId weight) const {
  const PlanKey key(user.name, graph_.tensor(weight));
  const auto found = std::ranges::lower_bound(sorted_plans_, key, {}, key_of);
  if (found == sorted_plans_.end() || key_of(*found) != key) {
    throw Error(ErrorCode::kInternal, user.name, "has no plan for tensor " + graph_.tensor(weight));
  }
  return **found;
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

void DelegateValues::call_delegate() {
  program().delegate_call("XnnpackBackend", std::exchange(arguments_, {}),
                          static_cast<std::uint32_t>(result_->delegates.size() - 1));
}

void DelegateValues::cut() {
  call_delegate();
  const std::size_t ended = result_->delegates.size() - 1;
  for (const auto& [value, passing] : passing_) {
    if (last_delegates_[static_cast<std::size_t>(value)] == ended) {
      no_longer_passing_.push_back(value);
    }
  }
  result_->delegates.emplace_back();
  packed_constants_.clear();
  operands_.clear();
  for (Mapped& value : mapped_) {
    value = {.native = value.native, .flow = value.flow};
  }
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
  call_delegate();
  return std::move(result_);
}

}  // namespace diffulex_edge::xnnpack
