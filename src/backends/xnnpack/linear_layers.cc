#include "backends/xnnpack/linear_layers.h"

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "diffulex_edge/error.h"

namespace diffulex_edge::xnnpack {

LinearLayers::LinearKernel LinearLayers::choose_kernel(const LayerPlan& plan) {
  const bool half = values_.compute() == DType::kF16;
  const std::string compute = half ? "f16" : "f32";
  LinearKernel kernel;
  switch (plan.format.element) {
    case ElementType::kF32:
      kernel.name = "f32 x f32";
      return kernel;
    case ElementType::kF16:
      kernel.name = compute + " x f16";
      kernel.input = kernel.output = values_.compute();
      kernel.bias_inside = !half;
      expands_fp16_ = expands_fp16_ || !half;
      return kernel;
    default:
      break;
  }
  if (!plan.format.is_grid()) {
    throw Error(ErrorCode::kInternal, plan.layer, to_string(plan.format) + " is not a stored format here");
  }
  const bool grouped = plan.format.granularity == Granularity::kGroup;
  const std::string int4 = grouped ? "qb4w" : "qc4w";
  const std::string weight = plan.format.bits() == 8 ? "qc8w" : int4;
  if (half && plan.format.bits() == 4 && !grouped) {
    throw Error(ErrorCode::kUnsupported, plan.layer,
                "XNNPACK has no kernel for FP16 activations with INT4 weights that have one scale per channel",
                "use groups, or FP32 activations");
  }
  if (plan.arithmetic.activations == LayerArithmetic::Activations::kDynamic) {
    kernel.name = "qd8 x " + weight;
    kernel.quantizes_input = true;
    kernel.output = values_.compute();
    kernel.bias_inside = !half;
    forced_dynamic_ = forced_dynamic_ || values_.plan().config.mode != QuantizationMode::DYNAMIC;
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

XnnId LinearLayers::filter(const LayerPlan& plan, const std::string& kernel,
                           const std::shared_ptr<const StaticLinear>& static_linear) {
  const std::string packing =
      kernel + ", " + to_string(plan.format) + (static_linear ? ", " + static_linear->scales() : "");
  const StoredParts parts = values_.result().weights.add_filter(plan);
  const bool channel_scales = plan.format.granularity == Granularity::kChannel;
  const std::vector<std::uint32_t> dims = {static_cast<std::uint32_t>(plan.rows),
                                           static_cast<std::uint32_t>(plan.columns)};
  const std::uint32_t index =
      values_.packed_constant(parts.values_segment, static_cast<std::size_t>(parts.values_bytes), packing);
  const std::int64_t own_scales = channel_scales || parts.is_new ? plan.scale_bytes() : 0;
  stored_bytes_ = (parts.is_new ? parts.values_bytes : 0) + own_scales;
  switch (plan.format.element) {
    case ElementType::kF32:
      return values_.delegate().constant_value(Datatype::fp32, dims, index);
    case ElementType::kF16:
      return values_.delegate().constant_value(Datatype::fp16, dims, index);
    default:
      break;
  }
  if (parts.scales_segment.has_value()) {
    const PerGroupScales scales{
        .group_size = static_cast<std::uint32_t>(plan.format.group_size),
        .constant_index = values_.packed_constant(*parts.scales_segment, static_cast<std::size_t>(parts.scales_bytes)),
        .count = static_cast<std::uint32_t>(parts.scales_bytes / 2)};
    return values_.delegate().constant_value(Datatype::qbint4, dims, index, scales);
  }
  const Datatype type = plan.format.bits() == 8 ? Datatype::qcint8 : Datatype::qcint4;
  PerChannelScales scales{.scales = std::vector<float>(static_cast<std::size_t>(plan.rows), 1.0F)};
  const XnnId id = values_.delegate().constant_value(type, dims, index, std::move(scales));
  DelegateGraph* graph = &values_.delegate();
  const auto receive = [=](std::int64_t row, std::span<const float> tile, std::span<const std::byte> values) {
    const auto target = std::span(graph->channel_scales(id)).subspan(static_cast<std::size_t>(row), tile.size());
    std::ranges::copy(tile, target.begin());
    if (static_linear) {
      static_linear->refine_zero_rows(target, values);
    }
  };
  values_.result().weights.on_channel_scales(plan, receive);
  return id;
}

void LinearLayers::lower(ValueId value) {
  const Node& current = values_.node(value);
  const LayerPlan& plan = values_.layer_plan(current, current.inputs[1]);
  if (plan.activations) {
    return linear_in_int8(value, plan);
  }
  const LinearKernel kernel = choose_kernel(plan);
  const XnnId weight = filter(plan, kernel.name + " -> " + (kernel.output == DType::kF16 ? "f16" : "f32"));
  values_.note_layer(plan, kernel.name, stored_bytes_);
  const XnnId input =
      kernel.quantizes_input ? values_.per_token(current.inputs[0]) : values_.get(current.inputs[0], kernel.input);
  const bool has_bias = current.inputs.size() == 3;
  if (!has_bias || kernel.bias_inside) {
    const XnnId bias = has_bias ? packed_bias(current, current.inputs[2]) : kNoValue;
    values_.delegate().fully_connected(input, weight, bias, values_.define(value, kernel.output));
    return;
  }
  const XnnId product = values_.delegate().value(datatype(kernel.output), upper_bounds(current.shape));
  values_.delegate().fully_connected(input, weight, kNoValue, product);
  const XnnId bias = values_.vector_operand(current, current.inputs[2], kernel.output);
  values_.delegate().binary(NodeUnion::Add, product, bias, values_.define(value, kernel.output));
}

void LinearLayers::linear_in_int8(ValueId value, const LayerPlan& plan) {
  const Node& current = values_.node(value);
  const auto layer = std::make_shared<const StaticLinear>(plan);
  const std::string kernel = plan.format.bits() == 8 ? "qs8 x qc8w" : "qs8 x qc4w";
  const XnnId weight = filter(plan, kernel, layer);
  values_.note_layer(plan, kernel, stored_bytes_);
  DelegateGraph* graph = &values_.delegate();
  values_.result().weights.on_streamed([=](const WeightStore::Write&) { layer->check(graph->channel_scales(weight)); });
  const XnnId input = values_.static_int8(current.inputs[0], layer->input());
  const bool has_bias = current.inputs.size() == 3;
  const XnnId bias = has_bias ? static_bias(current, weight, layer) : kNoValue;
  const XnnId product =
      values_.delegate().quantized_value(Datatype::qint8, upper_bounds(current.shape), layer->output());
  values_.delegate().fully_connected(input, weight, bias, product);
  values_.delegate().unary(NodeUnion::Convert, product, values_.define(value, DType::kF32));
  values_.mapped(value).flow = values_.compute();
}

XnnId LinearLayers::static_bias(const Node& user, XnnId weight, const std::shared_ptr<const StaticLinear>& layer) {
  LayerPlan plan = values_.layer_plan(user, user.inputs[2]);
  const auto rows = static_cast<std::size_t>(plan.columns);
  const std::size_t bytes = rows * sizeof(std::int32_t);
  WeightStore& weights = values_.result().weights;
  const std::uint32_t segment = weights.add_reserved(plan.tensor + ":i32", static_cast<std::int64_t>(bytes));
  const XnnId id = values_.delegate().constant_value(Datatype::qcint32, {static_cast<std::uint32_t>(rows)},
                                                     values_.packed_constant(segment, bytes),
                                                     PerChannelScales{.scales = std::vector<float>(rows, 1.0F)});
  DelegateGraph* graph = &values_.delegate();
  weights.on_streamed([=, &weights](const WeightStore::Write& write) {
    const std::vector<float>& scales = graph->channel_scales(weight);
    const std::vector<std::int32_t> steps = layer->quantize_bias(weights.read_vector(plan), scales);
    graph->channel_scales(id) = layer->bias_scales(scales);
    write(segment, 0, std::as_bytes(std::span(steps)));
  });
  plan.format = {.element = ElementType::kI32, .granularity = Granularity::kChannel};
  values_.note_layer(plan, "", static_cast<std::int64_t>(2 * bytes));  // with one float32 scale for each value
  return id;
}

XnnId LinearLayers::packed_bias(const Node& user, ValueId weight) {
  const StoredParts parts = values_.stored_vector(user, weight, DType::kF32);
  const std::uint32_t index =
      values_.packed_constant(parts.values_segment, static_cast<std::size_t>(parts.values_bytes));
  return values_.delegate().constant_value(Datatype::fp32, upper_bounds(values_.node(weight).shape), index);
}

void LinearLayers::add_warnings() {
  if (forced_dynamic_) {
    values_.result().warnings.emplace_back(
        "INT4 in groups runs with activations quantized to 8 bits for each token (qd8 x qb4w): XNNPACK has no kernel "
        "for groups with floating-point activations");
  }
  if (expands_fp16_) {
    values_.result().warnings.emplace_back(
        "FP16 weights are half the size in the file; XNNPACK expands them to FP32 in memory when it loads them "
        "(--activation-dtype fp16 keeps them in FP16)");
  }
}

}  // namespace diffulex_edge::xnnpack
