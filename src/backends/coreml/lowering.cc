#include "backends/coreml/lowering.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <tuple>
#include <utility>

#include "backends/coreml/cached_attention.h"
#include "backends/coreml/graph_values.h"
#include "backends/coreml/weight_operands.h"
#include "diffulex_edge/error.h"
#include "quant/affine_scale.h"
#include "quant/kernels/kernels.h"

namespace diffulex_edge::coreml {
namespace {

// Whole numbers up to here are exact in float16.
constexpr std::int64_t kExactInHalf = 2048;
constexpr std::size_t kLinearRank = 3;  // of the operation linear

// A static activation's scale, as the arithmetic's type holds it.
AffineScale activation_scale(const ActivationRange& range, MilDtype arithmetic) {
  AffineScale scale = affine_scale(range, 8);
  if (arithmetic == MilDtype::kFloat16) {
    const float half = kernels::scalar::f16_to_f32_one(kernels::scalar::f32_to_f16_one(scale.scale));
    scale.scale = std::max(half, kLeastNormalHalf);
    const float zero_point = std::nearbyint(-128.0F - std::min(range.min, 0.0F) / scale.scale);
    scale.zero_point = static_cast<std::int32_t>(std::clamp(zero_point, -128.0F, 127.0F));
  }
  return scale;
}

class Lowering final : private GraphValues {
 public:
  Lowering(const Graph& graph, const QuantizationPlan& plan, const PositionValues& positions, const GraphPart& part,
           const LoweringSettings& settings, LoweredPart& result)
      : GraphValues(graph, positions, part, settings, result), plan_(plan), weights_(result, settings) {
    if (StepInputs* inputs = step()) {
      MilOperations& operations = *this;
      cache_.emplace(operations, *inputs, settings.cache_storage);
      cache_->take_names(attentions_before(static_cast<ValueId>(graph.nodes().size())));
    }
  }

  void run() {
    make_part();
    if (cache_) {
      cache_->add_outputs();
      result().cache_bytes = cache_->bytes();
    }
  }

 private:
  // --- Masks.

  Id computed_blocks(ValueId positions, std::int64_t block) {
    return block_of(cast(mapped(positions), MilDtype::kFloat32), block);
  }

  Id known_blocks(ValueId positions, std::int64_t block) {
    const Shape& full = node(positions).shape;
    std::vector<float> blocks;
    for (const float position : known(positions)) {
      blocks.push_back(
          static_cast<float>(std::floor((static_cast<double>(position) + 0.5) / static_cast<double>(block))));
    }
    const auto is_exact = [](float index) { return std::abs(index) <= static_cast<float>(kExactInHalf); };
    const bool in_half = is_half() && full[0].value / block <= kExactInHalf && std::ranges::all_of(blocks, is_exact);
    const Id table = in_half || !is_half()
                         ? constant_floats(blocks, full, "block_of_position")
                         : function().constant(floats_literal(MilDtype::kFloat32, blocks, {{.value = full[0].value}}),
                                               "block_of_position");
    return cut_to_length(table, full);
  }

  // clip(block(i) - block(j), -1, 0) * 1e4: 0 where j's block is not behind i's. In arithmetic that every unit has.
  Id block_causal_mask(ValueId value) {
    const std::int64_t block = std::get<BlockCausalMaskAttributes>(node(value).attributes).block_length;
    const ValueId positions = node(value).inputs[0];
    const Id blocks = is_stored(positions) ? known_blocks(positions, block) : computed_blocks(positions, block);
    const MilDtype dtype = function().type(blocks).dtype;
    const MilType square{.dtype = dtype, .shape = run_time_shape(node(value).shape)};
    const Id difference = binary("sub", expand_dims(blocks, 1), expand_dims(blocks, 0), square);
    const Id behind = clip(difference, -1.0F, 0.0F);
    const Id mask = binary("mul", behind, function().constant(float_literal(dtype, -kMasked)), square);
    return cast(mask, arithmetic());
  }

  // What attention adds to its scores, finite in float16.
  Id mask_of(ValueId value) {
    const Id mask = number(value);
    if (!is_half() || is_stored(value) || node(value).op == Op::kBlockCausalMask) {
      return mask;
    }
    const auto [position, inserted] = masks_.emplace(mask, 0);
    if (inserted) {
      position->second = clip(mask, kMaskedInHalf, kernels::kMaxFinite16, "mask");
    }
    return position->second;
  }

  // --- The graph's operators.

  Id lowered(ValueId value) override {
    const Node& current = node(value);
    switch (current.op) {
      case Op::kEmbedding:
      case Op::kGather:
        return gather(value);
      case Op::kLinear:
        return linear(value);
      case Op::kRmsNorm:
        return rms_norm(value);
      case Op::kLayerNorm:
        return layer_norm(value);
      case Op::kRope:
        return rope(value);
      case Op::kAttention:
        return attention(value);
      case Op::kSwiGlu: {
        const Id gate = unary("silu", number(current.inputs[0]));
        return binary("mul", gate, number(current.inputs[1]), value_type(value));
      }
      case Op::kBlockCausalMask:
        return block_causal_mask(value);
      case Op::kMatMul: {
        const Id x = number(current.inputs[0]);
        const bool transpose_b = std::get<MatMulAttributes>(current.attributes).transpose_b;
        return matmul(x, number(current.inputs[1]), transpose_b, value_type(value), current.name);
      }
      case Op::kReshape:
      case Op::kTranspose:
      case Op::kSlice:
      case Op::kConcat:
        return rearranged(value);
      case Op::kInput:
      case Op::kWeight:
      case Op::kConstant:
      case Op::kPositions:
      case Op::kPositionTable:
        break;  // made elsewhere
      default:
        return elementwise(value);
    }
    throw Error(ErrorCode::kInternal, describe(current), "is not lowered to Core ML");
  }

  Id elementwise(ValueId value) {
    const Node& current = node(value);
    const Id x = number(current.inputs.at(0));
    const auto with_second = [&](std::string_view operation) {
      return binary(operation, x, number(current.inputs.at(1)), value_type(value), current.name);
    };
    switch (current.op) {
      case Op::kAdd:
        return with_second("add");
      case Op::kSubtract:
        return with_second("sub");
      case Op::kMultiply:
        return with_second("mul");
      case Op::kDivide:
        return with_second("real_div");
      case Op::kNegate:
        return binary("mul", x, scalar(-1.0F), value_type(value), current.name);
      case Op::kSquare:
        return unary("square", x, current.name);
      case Op::kReciprocalSquareRoot:
        return rsqrt(x, current.name);
      case Op::kSquareRoot:
        return unary("sqrt", x, current.name);
      case Op::kSigmoid:
        return unary("sigmoid", x, current.name);
      case Op::kTanh:
        return unary("tanh", x, current.name);
      case Op::kExp:
        return unary("exp", x, current.name);
      case Op::kGelu: {
        const bool tanh = std::get<GeluAttributes>(current.attributes).tanh;
        return function().add("gelu", {{"x", {x}}, {"mode", {text(tanh ? "TANH_APPROXIMATION" : "EXACT")}}},
                              value_type(value), current.name);
      }
      case Op::kSin:
        return unary("sin", x, current.name);
      case Op::kCos:
        return unary("cos", x, current.name);
      case Op::kFloor:
        return unary("floor", x, current.name);
      case Op::kClamp:
        return clamp(value, x);
      case Op::kReduceMean:
        return reduce("reduce_mean", x, current.name);
      case Op::kSoftmax:
        return softmax(x, current.name);
      default:
        throw Error(ErrorCode::kInternal, describe(current), "is not lowered to Core ML");
    }
  }

  // A bound that the arithmetic's type does not hold bounds nothing.
  Id clamp(ValueId value, Id x) {
    const Node& current = node(value);
    const auto& [low, high] = std::get<ClampAttributes>(current.attributes);
    const float limit = is_half() ? kernels::kMaxFinite16 : std::numeric_limits<float>::max();
    const bool has_low = low >= -limit;
    const bool has_high = high <= limit;
    if (low > limit || high < -limit) {
      throw Error(ErrorCode::kUnsupported, describe(current), "has a bound beyond FP16 (65504)",
                  "use --activation-dtype fp32");
    }
    if (has_low && has_high) {
      return clip(x, low, high, current.name);
    }
    if (has_low && low == 0.0F) {
      return unary("relu", x, current.name);
    }
    if (has_low) {
      return binary("maximum", x, scalar(low), value_type(value), current.name);
    }
    return has_high ? binary("minimum", x, scalar(high), value_type(value), current.name) : x;
  }

  // Values move, in whatever type they are: ids too.
  Id rearranged(ValueId value) {
    const Node& current = node(value);
    const Id x = mapped(current.inputs.at(0));
    if (current.op == Op::kReshape) {
      return reshape(x, run_time_shape(current.shape), current.name);
    }
    if (current.op == Op::kTranspose) {
      const auto& axes = std::get<AxesAttributes>(current.attributes).axes;
      return transpose(x, {axes.begin(), axes.end()}, current.name);
    }
    if (current.op == Op::kSlice) {
      const auto& range = std::get<SliceAttributes>(current.attributes);
      return slice(x, static_cast<std::size_t>(range.axis), range.begin, range.end, current.name);
    }
    const auto axis = static_cast<std::int32_t>(std::get<AxesAttributes>(current.attributes).axes[0]);
    std::vector<Id> values;
    for (const ValueId input : current.inputs) {
      values.push_back(mapped(input));
    }
    const auto is_whole = [&](Id id) { return function().type(id).dtype == MilDtype::kInt32; };
    MilType type = value_type(value);
    if (std::ranges::all_of(values, is_whole)) {
      type.dtype = MilDtype::kInt32;
    } else {
      std::ranges::transform(current.inputs, values.begin(), [&](ValueId input) { return number(input); });
    }
    return concat(std::move(values), axis, std::move(type), current.name);
  }

  bool is_weight(ValueId value) const { return node(value).op == Op::kWeight; }

  const LayerPlan& layer_plan(const Node& user, ValueId weight) const {
    return plan_.at(user.name, graph().tensor(weight));
  }

  // A norm's weight or a bias, which may be a value of the graph as well.
  Id vector(const Node& user, ValueId weight) {
    return is_weight(weight) ? weights_.vector(layer_plan(user, weight)) : number(weight);
  }

  Id gather(ValueId value) {
    const Node& current = node(value);
    const ValueId source = current.inputs[0];
    const Id table = is_weight(source) ? weights_.matrix(layer_plan(current, source), "gather") : number(source);
    return function().add("gather",
                          {{"x", {table}}, {"indices", {ids(current, current.inputs[1])}}, {"axis", {integer(0)}}},
                          value_type(value), current.op == Op::kEmbedding ? "embedding" : current.name);
  }

  Id linear(ValueId value) {
    const Node& current = node(value);
    Id x = number(current.inputs[0]);
    if (takes_last_only(value)) {
      x = last_token(x);
    }
    if (!is_weight(current.inputs[1])) {
      return product(value, x, number(current.inputs[1]), current.name);
    }
    const LayerPlan& plan = layer_plan(current, current.inputs[1]);
    if (plan.activations) {
      x = static_activation(x, activation_scale(plan.activations->input, arithmetic()));
    } else if (plan.format.is_quantized() && plan_.config.mode == QuantizationMode::DYNAMIC) {
      result().dynamic_as_weight_only = true;
    }
    const std::string kernel = std::string(plan.activations ? "int8" : name_of(arithmetic()));
    const Id weight = weights_.matrix(plan, kernel);
    const Id result = current.shape.size() > kLinearRank ? product(value, x, weight, plan.layer)
                                                         : linear_operation(value, x, weight, plan.layer);
    return plan.activations ? static_activation(result, activation_scale(plan.activations->output, arithmetic()))
                            : result;
  }

  Id linear_operation(ValueId value, Id x, Id weight, const std::string& name) {
    const Node& current = node(value);
    MilFunction::Arguments arguments = {{"x", {x}}, {"weight", {weight}}};
    std::optional<Id> added;
    if (current.inputs.size() == 3) {
      const Id bias = vector(current, current.inputs[2]);
      if (is_weight(current.inputs[2]) || is_stored(current.inputs[2])) {
        arguments.emplace_back("bias", std::vector{bias});
      } else {
        added = bias;  // the operation takes only a constant
      }
    }
    MilType type = value_type(value);
    if (takes_last_only(value)) {
      type.shape[1] = {.value = 1};
    }
    const Id result = function().add("linear", std::move(arguments), type, name);
    return added ? binary("add", result, *added, type) : result;
  }

  // The head, where only a step's last logits are asked for.
  bool takes_last_only(ValueId value) const {
    return settings().cache && settings().cache->logits == CachePlan::Logits::kLast && value == graph().output();
  }

  // Of [1, B, width].
  Id last_token(Id x) {
    MilType type = function().type(x);
    type.shape[1] = {.value = 1};
    return function().add("gather", {{"x", {x}}, {"indices", {step()->last()}}, {"axis", {integer(1)}}}, type);
  }

  // What `linear` means, of any rank and with any weight.
  Id product(ValueId value, Id x, Id weight, const std::string& name) {
    const Node& current = node(value);
    const Id result = shape(x).size() == 1 ? vector_product(value, x, weight, name)
                                           : matmul(x, weight, true, value_type(value), name);
    return current.inputs.size() == 3 ? binary("add", result, vector(current, current.inputs[2]), value_type(value))
                                      : result;
  }

  Id vector_product(ValueId value, Id x, Id weight, const std::string& name) {
    MilType row = value_type(value);
    const Shape result = row.shape;
    row.shape.insert(row.shape.begin(), Dim{.value = 1});
    return reshape(matmul(expand_dims(x, 0), weight, true, row, name), result);
  }

  // To 8 bits and back, as the compiler recognizes it. Layers that share an input and its range share the pair.
  Id static_activation(Id x, const AffineScale& scale) {
    const auto key = std::tuple(x, scale.scale, scale.zero_point);
    const auto [position, inserted] = static_activations_.emplace(key, 0);
    if (inserted) {
      const Id step = scalar(scale.scale);
      const Id zero_point = function().constant(int8_literal(static_cast<std::int8_t>(scale.zero_point)));
      const Id quantized = function().add(
          "quantize",
          {{"input", {x}}, {"scale", {step}}, {"zero_point", {zero_point}}, {"output_dtype", {text("int8")}}},
          {.dtype = MilDtype::kInt8, .shape = shape(x)});
      position->second = function().add(
          "dequantize", {{"input", {quantized}}, {"scale", {step}}, {"zero_point", {zero_point}}}, function().type(x));
    }
    return position->second;
  }

  // x / sqrt(mean(x^2) + epsilon). In float16, squares overflow from 256 on: x is divided by its largest magnitude m
  // first. With y = x / m, it is y / sqrt(mean(y^2) + epsilon / m^2).
  Id normalized(Id x, float epsilon) {
    const MilType type = function().type(x);
    MilType row = type;
    row.shape.back() = {.value = 1};
    Id mean_square = 0;
    if (is_half()) {
      const float root = std::max(std::sqrt(epsilon), kLeastNormalHalf);
      const Id largest = binary("maximum", reduce("reduce_max", unary("abs", x)), scalar(root), row);
      x = binary("real_div", x, largest, type);
      const Id share = binary("real_div", scalar(root), largest, row);
      mean_square = binary("add", reduce("reduce_mean", unary("square", x)), binary("mul", share, share, row), row);
    } else {
      mean_square = binary("add", reduce("reduce_mean", unary("square", x)), scalar(epsilon), row);
    }
    return binary("mul", x, rsqrt(mean_square), type);
  }

  Id rms_norm(ValueId value) {
    const Node& current = node(value);
    const Id x = number(current.inputs[0]);
    const Id rows = normalized(x, std::get<RmsNormAttributes>(current.attributes).epsilon);
    return binary("mul", rows, vector(current, current.inputs[1]), value_type(value), current.name);
  }

  // The operation in float32. In float16 its sums and squares would overflow: the mean is that of x / m, times m, and
  // what is left is normalized as RMS norms are.
  Id layer_norm(ValueId value) {
    const Node& current = node(value);
    const Id x = number(current.inputs[0]);
    const MilType type = value_type(value);
    const float epsilon = std::get<LayerNormAttributes>(current.attributes).epsilon;
    if (!is_half()) {
      return layer_norm_operation(value, x, epsilon);
    }
    MilType row = type;
    row.shape.back() = {.value = 1};
    const Id largest = binary("maximum", reduce("reduce_max", unary("abs", x)), scalar(kLeastNormalHalf), row);
    const Id share = reduce("reduce_mean", binary("real_div", x, largest, type));
    const Id centered = binary("sub", x, binary("mul", share, largest, row), type);
    return scaled_and_shifted(value, normalized(centered, epsilon));
  }

  Id layer_norm_operation(ValueId value, Id x, float epsilon) {
    const Node& current = node(value);
    MilFunction::Arguments arguments = {{"x", {x}}, {"axes", {ints({-1})}}, {"epsilon", {scalar(epsilon)}}};
    const bool constant = std::all_of(current.inputs.begin() + 1, current.inputs.end(),
                                      [&](ValueId input) { return is_weight(input) || is_stored(input); });
    if (!constant) {
      return scaled_and_shifted(value, function().add("layer_norm", std::move(arguments), value_type(value)));
    }
    for (std::size_t i = 1; i < current.inputs.size(); ++i) {
      arguments.emplace_back(i == 1 ? "gamma" : "beta", std::vector{vector(current, current.inputs[i])});
    }
    return function().add("layer_norm", std::move(arguments), value_type(value), current.name);
  }

  Id scaled_and_shifted(ValueId value, Id rows) {
    const Node& current = node(value);
    for (std::size_t i = 1; i < current.inputs.size(); ++i) {
      const std::string name = i + 1 == current.inputs.size() ? current.name : "";
      rows = binary(i == 1 ? "mul" : "add", rows, vector(current, current.inputs[i]), value_type(value), name);
    }
    return rows;
  }

  Id rope(ValueId value) {
    const Node& current = node(value);
    const Id x = number(current.inputs[0]);
    const MilType type = value_type(value);
    const std::int64_t size = type.shape.back().value;
    const std::size_t last = type.shape.size() - 1;
    const Id first = slice(x, last, 0, size / 2);
    const Id second = slice(x, last, size / 2, size);
    const Id swapped = concat({second, first}, -1, type);
    const Id straight = binary("mul", x, number(current.inputs[1]), type);
    return binary("add", straight, binary("mul", swapped, number(current.inputs[2]), type), type);
  }

  // [seq, heads, D] to [1, heads, seq, D], and heads repeated up to `wanted`.
  Id heads_first(Id x, std::int64_t wanted) {
    const Id batched = transpose(expand_dims(x, 0), {0, 2, 1, 3});
    const Shape own = shape(batched);
    const std::int64_t repeats = wanted / own[1].value;
    if (repeats == 1) {
      return batched;
    }
    const Id grouped = expand_dims(batched, 2);
    MilType tiled = function().type(grouped);
    tiled.shape[2] = {.value = repeats};
    const Id copies = function().add(
        "tile", {{"x", {grouped}}, {"reps", {ints({1, 1, static_cast<std::int32_t>(repeats), 1, 1})}}}, tiled);
    return reshape(copies, {own[0], {.value = wanted}, own[2], own[3]});
  }

  Id attention(ValueId value) {
    if (cache_) {
      return attention_over(*cache_, value);
    }
    const Node& current = node(value);
    const std::int64_t heads = node(current.inputs[0]).shape[1].value;
    const Id q = heads_first(number(current.inputs[0]), heads);
    const Id k = heads_first(number(current.inputs[1]), heads);
    const Id v = heads_first(number(current.inputs[2]), heads);
    std::optional<Id> mask;
    if (current.inputs.size() == 4) {
      mask = mask_of(current.inputs[3]);
    }
    return by_token(value, attend(value, q, k, v, mask));
  }

  // [1, heads, seq, D] to the attention's shape.
  Id by_token(ValueId value, Id mixed) {
    return reshape(transpose(mixed, {0, 2, 1, 3}), run_time_shape(node(value).shape), node(value).name);
  }

  std::int64_t attentions_before(ValueId end) const {
    const auto& nodes = graph().nodes();
    return std::count_if(nodes.begin(), nodes.begin() + end,
                         [](const Node& other) { return other.op == Op::kAttention; });
  }

  Id attention_over(CachedAttention& cache, ValueId value) {
    const Node& current = node(value);
    const auto own_heads = [&](std::size_t input) {
      return heads_first(number(current.inputs[input]), node(current.inputs[input]).shape[1].value);
    };
    CachedAttention::Operands operands;
    operands.queries = own_heads(0);
    operands.keys = own_heads(1);
    operands.values = own_heads(2);
    const std::int64_t block_length =
        current.inputs.size() == 4
            ? std::get<BlockCausalMaskAttributes>(node(current.inputs[3]).attributes).block_length
            : 0;
    const CachedAttention::Seen seen = cache.see(operands, attentions_before(value), block_length);
    const Id mixed = attend(value, seen.queries, seen.keys, seen.values, seen.mask);
    return by_token(value, seen.queries == operands.queries ? mixed : reshape(mixed, Shape(shape(operands.queries))));
  }

  Id attend(ValueId value, Id q, Id k, Id v, std::optional<Id> mask) {
    const float scale = std::get<AttentionAttributes>(node(value).attributes).scale;
    const std::int64_t size = shape(q).back().value;
    return settings().target->release >= kBlockwiseRelease ? fused_attention(q, k, v, mask, scale, size)
                                                           : plain_attention(q, k, v, mask, scale);
  }

  Id fused_attention(Id q, Id k, Id v, std::optional<Id> mask, float scale, std::int64_t size) {
    // The operation scales by 1 / sqrt(size) itself.
    const auto own = static_cast<float>(1.0 / std::sqrt(static_cast<double>(size)));
    if (scale != own) {
      q = binary("mul", q, scalar(scale / own), function().type(q));
    }
    MilFunction::Arguments arguments = {{"query", {q}}, {"key", {k}}, {"value", {v}}};
    if (mask) {
      arguments.emplace_back("attn_mask", std::vector{*mask});
    }
    return function().add("scaled_dot_product_attention", std::move(arguments), function().type(q));
  }

  Id plain_attention(Id q, Id k, Id v, std::optional<Id> mask, float scale) {
    q = binary("mul", q, scalar(scale), function().type(q));
    MilType type = function().type(q);
    type.shape.back() = shape(k)[2];
    Id scores = matmul(q, k, true, type);
    if (mask) {
      scores = binary("add", scores, *mask, type);
    }
    return matmul(softmax(scores), v, false, function().type(q));
  }

  const QuantizationPlan& plan_;
  WeightOperands weights_;
  std::optional<CachedAttention> cache_;
  std::map<Id, Id> masks_;  // as attention takes them
  std::map<std::tuple<Id, float, std::int32_t>, Id> static_activations_;
};

}  // namespace

std::unique_ptr<LoweredPart> lower(const Graph& graph, const Checkpoint& checkpoint, const QuantizationPlan& plan,
                                   const PositionValues& positions, const GraphPart& part, DistinctTensors& distinct,
                                   const LoweringSettings& settings) {
  auto result = std::make_unique<LoweredPart>(checkpoint, distinct, settings.weights);
  Lowering(graph, plan, positions, part, settings, *result).run();
  return result;
}

}  // namespace diffulex_edge::coreml
