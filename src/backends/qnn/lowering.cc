#include "backends/qnn/lowering.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>

#include "diffulex_edge/error.h"
#include "graph/graph_parts.h"
#include "quant/kernels/kernels.h"
#include "quant/static_graph.h"
#include "quant/weight_decoder.h"

namespace diffulex_edge::qnn {
namespace {

using Id = OnnxGraph::Id;
using Sizes = std::vector<std::int64_t>;

constexpr std::string_view kContrib = "com.microsoft";
// In floating point; float16 holds it, and exp() of it is 0.
constexpr float kMasked = -1e4F;

std::int64_t product(const Sizes& sizes) {
  std::int64_t result = 1;
  for (const std::int64_t size : sizes) {
    result *= size;
  }
  return result;
}

// A value of the ONNX graph. In mode static it comes from a DequantizeLinear with the encoding of `range`.
struct Value {
  Id id = -1;
  ActivationRange range;
};

// Lowers one part of the graph to one ONNX model.
class Lowering {
 public:
  // `ranges` in mode static, else nullptr: floating point.
  Lowering(const Model& model, const QuantizationPlan& plan, const PositionValues& positions, const GraphPart& part,
           OnnxDtype arithmetic, const GraphActivations* ranges, OnnxModel& target, LoweredModel& result)
      : model_(model),
        graph_(model.graph),
        plan_(plan),
        positions_(positions),
        part_(part),
        arithmetic_(arithmetic),
        ranges_(ranges),
        bits_(plan.config.activation_bits),
        target_(target),
        result_(result),
        mapped_(graph_.nodes().size()) {}

  void run() {
    if (part_.input) {
      const Sizes flat = onnx_sizes(node(*part_.input).shape);
      const Value stream{.id = onnx().input(part_.input_name, float_type({1, flat[0], flat[1]})), .range = {}};
      mapped_[static_cast<std::size_t>(*part_.input)] =
          reshape(finish_value(stream.id, range_of_value(*part_.input)), flat);
    }
    for (ValueId value = part_.begin; value < part_.end; ++value) {
      lower_node(value);
    }
    finish();
  }

 private:
  OnnxGraph& onnx() { return target_.graph; }
  bool is_static() const { return ranges_ != nullptr; }
  const Node& node(ValueId value) const { return graph_.node(value); }
  const Sizes& sizes(Id id) { return onnx().type(id).sizes; }
  OnnxType float_type(Sizes sizes) const { return {.dtype = arithmetic_, .sizes = std::move(sizes)}; }

  // The residual stream and what linear layers make are [seq, C], heads [1, seq, H, D].
  Sizes onnx_sizes(const Shape& shape) const {
    Sizes result = sizes_at(shape, model_.seq_len);
    if (result.size() == 3 && shape[1].is_sequence) {
      result.erase(result.begin());
    } else if (result.size() == 3) {
      result.insert(result.begin(), 1);
    }
    return result;
  }

  // --- Ranges.

  ActivationRange range_of_value(ValueId value) const {
    return is_static() ? with_headroom(ranges_->values[static_cast<std::size_t>(value)], bits_) : ActivationRange{};
  }

  ActivationRange range_of_scores(ValueId attention) const {
    return is_static() ? with_headroom(observed_scores(*ranges_, attention), bits_) : ActivationRange{};
  }

  // --- Integers.

  OnnxDtype integer_dtype() const { return bits_ > 8 ? OnnxDtype::kUint16 : OnnxDtype::kUint8; }

  Id integers(const std::vector<std::uint32_t>& values, Sizes sizes, std::string_view name) {
    const OnnxType type{.dtype = integer_dtype(), .sizes = std::move(sizes)};
    std::vector<std::byte> bytes;
    for (const std::uint32_t value : values) {
      bytes.push_back(static_cast<std::byte>(value & 0xFFU));
      if (type.dtype == OnnxDtype::kUint16) {
        bytes.push_back(static_cast<std::byte>(value >> 8U));
      }
    }
    return type.sizes.empty() ? onnx().constant(type, bytes, name)
                              : onnx().external(type, result_.data.add_computed(bytes), name);
  }

  Id dequantize(Id quantized, const Encoding& encoding, OnnxType type, std::string_view name) {
    return onnx().add("DequantizeLinear", {quantized, onnx().scalar(encoding.scale), zero_of(encoding)}, {},
                      std::move(type), name);
  }
  Id zero_of(const Encoding& encoding) {
    return integers({static_cast<std::uint32_t>(encoding.zero_point)}, {}, "zero");
  }

  // In mode static to integers and back, as the compiler recognizes it.
  Value finish_value(Id raw, const ActivationRange& range) {
    if (!is_static()) {
      return {.id = raw, .range = {}};
    }
    const Encoding encoding = choose_encoding(range, bits_);
    const OnnxType type = onnx().type(raw);
    const std::string name = onnx().name(raw);
    target_.encodings.emplace(name, encoding);
    const Id quantized = onnx().add("QuantizeLinear", {raw, onnx().scalar(encoding.scale), zero_of(encoding)}, {},
                                    {.dtype = integer_dtype(), .sizes = type.sizes}, name + "_quantized");
    return {.id = dequantize(quantized, encoding, type, name + "_dequantized"), .range = range};
  }

  // Small data, in integers in mode static.
  Value constant_floats(std::span<const float> values, Sizes sizes, std::string_view name) {
    if (!is_static()) {
      return {.id = float_tensor(values, std::move(sizes), name), .range = {}};
    }
    const ActivationRange range = range_of(values);
    const Encoding encoding = choose_encoding(range, bits_);
    const float most = std::ldexp(1.0F, bits_) - 1.0F;
    std::vector<std::uint32_t> rounded;
    for (const float value : values) {
      const float q = std::nearbyint(value / encoding.scale) + static_cast<float>(encoding.zero_point);
      rounded.push_back(static_cast<std::uint32_t>(std::clamp(q, 0.0F, most)));
    }
    const Id stored = integers(rounded, sizes, std::string(name) + "_quantized");
    return {.id = dequantize(stored, encoding, float_type(std::move(sizes)), name), .range = range};
  }

  Id float_tensor(std::span<const float> values, Sizes sizes, std::string_view name) {
    const OnnxType type = float_type(std::move(sizes));
    std::vector<std::uint16_t> halves;
    std::span<const std::byte> bytes = std::as_bytes(values);
    if (type.dtype == OnnxDtype::kFloat16) {
      halves.resize(values.size());
      kernels::f32_to_f16(values.data(), halves.data(), values.size());
      bytes = std::as_bytes(std::span(halves));
    }
    return values.size() == 1 ? onnx().constant(type, bytes, name)
                              : onnx().external(type, result_.data.add_computed(bytes), name);
  }

  // --- Operators. Those that move values keep their range.

  Value reshape(const Value& x, const Sizes& target) {
    if (sizes(x.id) == target) {
      return x;
    }
    const auto [position, inserted] = reshaped_.emplace(std::pair(x.id, target), Value{});
    if (inserted) {
      position->second = finish_value(
          onnx().add("Reshape", {x.id, onnx().ints(target)}, {}, {.dtype = onnx().type(x.id).dtype, .sizes = target}),
          x.range);
    }
    return position->second;
  }

  Value transpose(const Value& x, const Sizes& permutation) {
    Sizes target;
    for (const std::int64_t axis : permutation) {
      target.push_back(sizes(x.id)[static_cast<std::size_t>(axis)]);
    }
    return finish_value(onnx().add("Transpose", {x.id}, {{"perm", permutation}}, float_type(target)), x.range);
  }

  Value slice_last(const Value& x, std::int64_t begin, std::int64_t end) {
    Sizes target = sizes(x.id);
    target.back() = end - begin;
    const auto axis = static_cast<std::int64_t>(target.size()) - 1;
    return finish_value(onnx().add("Slice", {x.id, onnx().ints({begin}), onnx().ints({end}), onnx().ints({axis})}, {},
                                   float_type(target)),
                        x.range);
  }

  // Shapes broadcast as x has it.
  Value binary(std::string_view op, const Value& x, const Value& y, const ActivationRange& range) {
    return finish_value(onnx().add(op, {x.id, y.id}, {}, onnx().type(x.id)), range);
  }

  Value matmul(const Value& x, const Value& y, const ActivationRange& range) {
    Sizes target = sizes(x.id);
    target.back() = sizes(y.id).back();
    return finish_value(onnx().add("MatMul", {x.id, y.id}, {}, float_type(target)), range);
  }

  // --- The graph's nodes.

  Value mapped(ValueId value) {
    std::optional<Value>& slot = mapped_[static_cast<std::size_t>(value)];
    if (!slot) {
      const std::vector<float>* values = positions_.find(value);
      if (values == nullptr) {
        throw Error(ErrorCode::kInternal, std::string(to_string(node(value).op)), "has no value");
      }
      // [seq, 1, D], for all heads of [1, seq, H, D]
      slot = constant_floats(*values, onnx_sizes(node(value).shape), "positions");
    }
    return *slot;
  }

  void lower_node(ValueId value) {
    const Op op = node(value).op;
    // Weights, masks and what positions decide are made where they are used.
    if (op != Op::kWeight && op != Op::kBlockCausalMask && positions_.find(value) == nullptr) {
      mapped_[static_cast<std::size_t>(value)] = lower_operator(value);
    }
  }

  Value lower_operator(ValueId value) {
    const Node& current = node(value);
    switch (current.op) {
      case Op::kInput:
        return {.id = onnx().input("input_ids", {.dtype = OnnxDtype::kInt32, .sizes = {1, model_.seq_len}}),
                .range = {}};
      case Op::kEmbedding:
        return embedding(value);
      case Op::kLinear:
        return linear(value);
      case Op::kRmsNorm:
        return rms_norm(value);
      case Op::kRope:
        return rope(value);
      case Op::kAttention:
        return attention(value);
      case Op::kSwiGlu:
        return swiglu(value);
      case Op::kAdd:
        return binary("Add", mapped(current.inputs[0]), mapped(current.inputs[1]), range_of_value(value));
      case Op::kReshape:
        return reshape(mapped(current.inputs[0]), onnx_sizes(current.shape));
      default:
        throw Error(ErrorCode::kInternal, std::string(to_string(current.op)), "is not lowered to QNN");
    }
  }

  const LayerPlan& layer_plan(const Node& user, ValueId weight) const {
    return plan_.at(user.name, graph_.tensor(weight));
  }

  void note_layer(const LayerPlan& plan, std::string kernel, const StoredMatrix& stored) {
    result_.layers.push_back(
        {.plan = plan, .kernel = std::move(kernel), .stored_bytes = stored.is_new ? stored.bytes() : 0});
  }

  // A matrix of floats, in the arithmetic's type.
  Id float_matrix(LayerPlan plan, const std::string& kernel) {
    const bool half = arithmetic_ == OnnxDtype::kFloat16 || plan.format.element == ElementType::kF16;
    const StoredMatrix stored = result_.data.add_matrix(plan, half ? Packing::kFloat16 : Packing::kFloat32);
    plan.format = float_format(half ? ElementType::kF16 : ElementType::kF32);
    note_layer(plan, kernel + (half ? " x fp16" : " x fp32"), stored);
    const Sizes shape = {plan.rows, plan.columns};
    const OnnxDtype dtype = half ? OnnxDtype::kFloat16 : OnnxDtype::kFloat;
    const Id tensor = external({.dtype = dtype, .sizes = shape}, stored.values, plan.layer + ".weight");
    if (dtype == arithmetic_) {
      return tensor;
    }
    return onnx().add("Cast", {tensor}, {{"to", static_cast<std::int64_t>(arithmetic_)}}, float_type(shape));
  }

  // Equal weights share one tensor where they are read alike: the compiler takes the scale of one reader for all.
  Id external(OnnxType type, ExternalData data, const std::string& name, std::string_view reader = {}) {
    const auto key = std::tuple(std::string(reader), static_cast<int>(type.dtype), data.offset, type.sizes);
    const auto [position, inserted] = externals_.emplace(key, 0);
    if (inserted) {
      position->second = onnx().external(std::move(type), data, name);
    }
    return position->second;
  }

  Id zero_points(OnnxDtype dtype, const Sizes& sizes, const std::string& name) {
    const OnnxType type{.dtype = dtype, .sizes = sizes};
    const std::vector<std::byte> zeros(static_cast<std::size_t>(stored_bytes(type)));
    return external(type, result_.data.add_computed(zeros), name);
  }

  std::string float_name() const { return arithmetic_ == OnnxDtype::kFloat16 ? "fp16" : "fp32"; }
  std::string activation_name() const { return "int" + std::to_string(bits_); }

  Value embedding(ValueId value) {
    const Node& current = node(value);
    const LayerPlan& plan = layer_plan(current, current.inputs[0]);
    const Id ids = onnx().add("Reshape", {mapped(current.inputs[1]).id, onnx().ints({model_.seq_len})}, {},
                              {.dtype = OnnxDtype::kInt32, .sizes = {model_.seq_len}}, "ids");
    const Sizes shape = {model_.seq_len, plan.columns};
    if (!plan.format.is_quantized()) {
      const Id table = float_matrix(plan, "gather");
      return finish_value(
          onnx().add("Gather", {table, ids}, {{"axis", std::int64_t{0}}}, float_type(shape), "embedding"),
          range_of_value(value));
    }
    if (plan.format.element != ElementType::kI8) {
      throw Error(ErrorCode::kUnsupported, plan.layer, "INT4 embeddings are not available with QNN",
                  "use --embedding-dtype int8 or fp16");
    }
    // Rows as integers of scale 1, which the compiler keeps in 8 bits, times the scale of each row.
    const StoredMatrix stored = result_.data.add_matrix(plan, Packing::kSigned);
    note_layer(plan, "gather x int8", stored);
    const Sizes all = {plan.rows, plan.columns};
    const float unit = 1.0F;
    const Id one = float_tensor(std::span(&unit, 1), {}, "one");
    const std::byte nothing{0};
    const Id zero = onnx().constant({.dtype = OnnxDtype::kInt8, .sizes = {}}, std::span(&nothing, 1), "zero");
    const Id table =
        external({.dtype = OnnxDtype::kInt8, .sizes = all}, stored.values, plan.layer + ".weight", "gather");
    const Id numbers = onnx().add("DequantizeLinear", {table, one, zero}, {}, float_type(all));
    const Id rows = onnx().add("Gather", {numbers, ids}, {{"axis", std::int64_t{0}}}, float_type(shape));
    const Id integers =
        onnx().add("QuantizeLinear", {rows, one, zero}, {}, {.dtype = OnnxDtype::kInt8, .sizes = shape});
    const Id row_numbers = onnx().add("DequantizeLinear", {integers, one, zero}, {}, float_type(shape));
    Id scales = external({.dtype = OnnxDtype::kFloat, .sizes = {plan.rows, 1}}, stored.scales, plan.layer + ".scale");
    if (arithmetic_ != OnnxDtype::kFloat) {
      scales =
          onnx().add("Cast", {scales}, {{"to", static_cast<std::int64_t>(arithmetic_)}}, float_type({plan.rows, 1}));
    }
    const Id row_scales =
        onnx().add("Gather", {scales, ids}, {{"axis", std::int64_t{0}}}, float_type({model_.seq_len, 1}));
    return finish_value(onnx().add("Mul", {row_numbers, row_scales}, {}, float_type(shape), "embedding"),
                        range_of_value(value));
  }

  Value linear(ValueId value) {
    const Node& current = node(value);
    const LayerPlan& plan = layer_plan(current, current.inputs[1]);
    const Value x = mapped(current.inputs[0]);
    const bool has_bias = current.inputs.size() == 3;
    std::optional<std::vector<float>> bias;
    if (has_bias) {
      bias = load_vector(current, current.inputs[2]);
    }
    // Before the bias, values may lie further out by as much.
    ActivationRange before = range_of_value(value);
    if (bias) {
      const ActivationRange offsets = range_of(*bias);
      before = {.min = before.min - offsets.max, .max = before.max - offsets.min};
    }
    Value result = multiply(plan, x, before, value == graph_.output());
    if (bias) {
      const Value added = constant_floats(*bias, {plan.rows}, plan.layer + ".bias");
      result = binary("Add", result, added, range_of_value(value));
    }
    return result;
  }

  // x W^T. The head's logits in floating point need no integers after them.
  Value multiply(const LayerPlan& plan, const Value& x, const ActivationRange& range, bool is_head) {
    const OnnxType type = float_type({model_.seq_len, plan.rows});
    const OnnxGraph::Attributes transposed = {{"transB", std::int64_t{1}}};
    if (!plan.format.is_quantized()) {
      const Id weight = float_matrix(plan, float_name());
      const Id raw = onnx().add("Gemm", {x.id, weight}, transposed, type, plan.layer);
      return is_head ? Value{.id = raw, .range = range} : finish_value(raw, range);
    }
    if (is_static()) {
      const Id weight = dequantized_matrix(plan);
      return finish_value(onnx().add("Gemm", {x.id, weight}, transposed, type, plan.layer), range);
    }
    return multiply_blocks(plan, x);
  }

  Id dequantized_matrix(const LayerPlan& plan) {
    const StoredMatrix stored = result_.data.add_matrix(plan, Packing::kSigned);
    const bool is_int4 = plan.format.element == ElementType::kI4;
    const bool in_groups = plan.format.granularity == Granularity::kGroup;
    note_layer(plan, activation_name() + (is_int4 ? " x int4" : " x int8"), stored);
    result_.has_blocks = result_.has_blocks || in_groups;
    const OnnxDtype dtype = is_int4 ? OnnxDtype::kInt4 : OnnxDtype::kInt8;
    const Sizes shape = {plan.rows, plan.columns};
    const Sizes scale_shape = in_groups ? Sizes{plan.rows, stored.scales_per_row} : Sizes{plan.rows};
    const Id values = external({.dtype = dtype, .sizes = shape}, stored.values, plan.layer + ".weight");
    const Id scales =
        external({.dtype = OnnxDtype::kFloat, .sizes = scale_shape}, stored.scales, plan.layer + ".scale");
    // Without zero points the compiler takes INT4 of one scale for each row wrongly, and says nothing.
    const Id zeros = zero_points(dtype, scale_shape, plan.layer + ".zero");
    OnnxGraph::Attributes attributes = {{"axis", std::int64_t{in_groups ? 1 : 0}}};
    if (in_groups) {
      attributes.emplace_back("block_size", plan.format.group_size);
    }
    return onnx().add("DequantizeLinear", {values, scales, zeros}, std::move(attributes), float_type(shape));
  }

  // Floating-point activations: the one operator with integer weights that the compiler takes beside them, and that
  // with three dimensions alone.
  Value multiply_blocks(const LayerPlan& plan, const Value& x) {
    const StoredMatrix stored = result_.data.add_matrix(plan, Packing::kBlocks);
    const bool is_int4 = plan.format.element == ElementType::kI4;
    result_.dynamic_as_weight_only = result_.dynamic_as_weight_only || plan_.config.mode == QuantizationMode::DYNAMIC;
    note_layer(plan, float_name() + (is_int4 ? " x int4" : " x int8"), stored);
    const std::int64_t bits = is_int4 ? 4 : 8;
    const Id values = external(
        {.dtype = OnnxDtype::kUint8, .sizes = {plan.rows, stored.scales_per_row, stored.block_size * bits / 8}},
        stored.values, plan.layer + ".weight");
    const Id scales = external({.dtype = OnnxDtype::kFloat, .sizes = {plan.rows, stored.scales_per_row}}, stored.scales,
                               plan.layer + ".scale");
    const Value batch = reshape(x, {1, model_.seq_len, plan.columns});
    const Id raw =
        onnx().add("MatMulNBits", {batch.id, values, scales},
                   {{"K", plan.columns}, {"N", plan.rows}, {"bits", bits}, {"block_size", stored.block_size}},
                   float_type({1, model_.seq_len, plan.rows}), plan.layer, kContrib);
    return reshape({.id = raw, .range = {}}, {model_.seq_len, plan.rows});
  }

  // A norm's weight or a bias.
  std::vector<float> load_vector(const Node& user, ValueId weight) {
    const LayerPlan& plan = layer_plan(user, weight);
    std::vector<float> values = load_tensor(*model_.checkpoint, plan.tensor);
    const ActivationRange range = range_of(values);
    if (!std::isfinite(range.min) || !std::isfinite(range.max) ||
        std::ranges::any_of(values, [](float value) { return std::isnan(value); })) {
      throw Error(ErrorCode::kBadFile, plan.tensor, "has a value that is not finite", "the model's weights are broken");
    }
    LayerPlan stored = plan;
    stored.format = float_format(ElementType::kF32);
    const int float_bytes = arithmetic_ == OnnxDtype::kFloat16 ? 2 : 4;
    const int element_bytes = is_static() ? bits_ / 8 : float_bytes;
    result_.layers.push_back({.plan = stored, .kernel = "", .stored_bytes = plan.columns * element_bytes});
    return values;
  }

  // In two dimensions: with three or four, the compiler of QAIRT 2.51 computes rows of 32 wrongly, and says nothing.
  Value rms_norm(ValueId value) {
    const Node& current = node(value);
    const Value source = mapped(current.inputs[0]);
    const Sizes shape = sizes(source.id);
    const std::int64_t size = shape.back();
    const Value x = reshape(source, {product(shape) / size, size});
    const std::vector<float> weight = load_vector(current, current.inputs[1]);
    const Value factors = constant_floats(weight, {size}, current.name + ".weight");
    const Value normalized = finish_value(
        onnx().add("RMSNormalization", {x.id, factors.id},
                   {{"axis", std::int64_t{-1}}, {"epsilon", std::get<RmsNormAttributes>(current.attributes).epsilon}},
                   onnx().type(x.id), current.name),
        range_of_value(value));
    return reshape(normalized, shape);
  }

  Value rope(ValueId value) {
    const Node& current = node(value);
    const Value x = mapped(current.inputs[0]);
    const std::int64_t size = sizes(x.id).back();
    const Value first = slice_last(x, 0, size / 2);
    const Value second = slice_last(x, size / 2, size);
    const Value swapped = finish_value(
        onnx().add("Concat", {second.id, first.id}, {{"axis", std::int64_t{3}}}, onnx().type(x.id)), x.range);
    const ActivationRange turned = around_zero(x.range);  // |cos| and |sin| are at most 1
    const Value straight = binary("Mul", x, mapped(current.inputs[1]), turned);
    const Value crossed = binary("Mul", swapped, mapped(current.inputs[2]), turned);
    return binary("Add", straight, crossed, range_of_value(value));
  }

  // Query heads that share a key head lie below each other, so that keys and values need no copies.
  Value attention(ValueId value) {
    const Node& current = node(value);
    const std::int64_t length = model_.seq_len;
    const Sizes heads_first = {0, 2, 1, 3};
    Value q = transpose(mapped(current.inputs[0]), heads_first);
    const Value k = transpose(mapped(current.inputs[1]), {0, 2, 3, 1});
    const Value v = transpose(mapped(current.inputs[2]), heads_first);
    const std::int64_t heads = sizes(q.id)[1];
    const std::int64_t size = sizes(q.id)[3];
    const std::int64_t key_heads = sizes(v.id)[1];
    const std::int64_t group = heads / key_heads;
    const float scale = std::get<AttentionAttributes>(current.attributes).scale;
    q = binary("Mul", q, constant_floats(std::span(&scale, 1), {1}, "scale"), scaled(q.range, scale));
    q = reshape(q, {1, key_heads, group * length, size});
    Value scores = matmul(q, k, range_of_scores(value));
    const std::optional<std::int64_t> block = mask_block(current);
    if (block) {
      scores = masked(reshape(scores, {key_heads, group, length, length}), *block);
    }
    const Value shares =
        finish_value(onnx().add("Softmax", {scores.id}, {{"axis", std::int64_t{-1}}}, onnx().type(scores.id)),
                     {.min = 0.0F, .max = 1.0F});
    const Value mixed = matmul(reshape(shares, {1, key_heads, group * length, length}), v, range_of_value(value));
    const Value by_head = transpose(reshape(mixed, {1, heads, length, size}), heads_first);
    return reshape(by_head, {length, heads * size});
  }

  // The block length of its mask, if that hides anything.
  std::optional<std::int64_t> mask_block(const Node& attention) const {
    if (attention.inputs.size() < 4) {
      return std::nullopt;
    }
    const Node& mask = node(attention.inputs[3]);
    if (mask.op != Op::kBlockCausalMask) {
      throw Error(ErrorCode::kInternal, std::string(to_string(mask.op)), "is not a mask that QNN is lowered with");
    }
    const std::int64_t block = std::get<BlockCausalMaskAttributes>(mask.attributes).block_length;
    return block < model_.seq_len ? std::optional(block) : std::nullopt;
  }

  // In integers, what is masked saturates a little below the least score: the range stays narrow.
  Value masked(const Value& scores, std::int64_t block) {
    const ActivationRange range = masked_range(scores.range, bits_);
    const float far = is_static() ? range.min - range.max : kMasked;
    return binary("Add", scores, mask(block, far), range);
  }

  // [1, 1, seq, seq]: `far` where the key's block lies behind the query's, else 0.
  Value mask(std::int64_t block, float far) {
    const auto [position, inserted] = masks_.emplace(far, Value{});
    if (inserted) {
      const std::int64_t length = model_.seq_len;
      std::vector<float> values(static_cast<std::size_t>(length * length));
      for (std::int64_t i = 0; i < length; ++i) {
        const std::int64_t seen = std::min(length, (i / block + 1) * block);
        std::fill(values.begin() + i * length + seen, values.begin() + (i + 1) * length, far);
      }
      position->second = constant_floats(values, {1, 1, length, length}, "mask");
    }
    return position->second;
  }

  Value swiglu(ValueId value) {
    const Node& current = node(value);
    const Value gate = mapped(current.inputs[0]);
    const Value up = mapped(current.inputs[1]);
    const Value share =
        finish_value(onnx().add("Sigmoid", {gate.id}, {}, onnx().type(gate.id)), {.min = 0.0F, .max = 1.0F});
    const Value activated = binary("Mul", gate, share, silu_range(gate.range));
    return binary("Mul", activated, up, range_of_value(value));
  }

  void finish() {
    if (part_.end < static_cast<ValueId>(graph_.nodes().size())) {
      const Value stream = mapped(part_.end - 1);
      const Sizes& flat = sizes(stream.id);
      onnx().output(reshape(stream, {1, flat[0], flat[1]}).id, part_.output_name);
      return;
    }
    const Value logits = mapped(graph_.output());
    const std::int64_t vocabulary = sizes(logits.id).back();
    const Sizes shape = {1, model_.seq_len, vocabulary};
    Id last = logits.id;
    if (arithmetic_ != OnnxDtype::kFloat) {
      last = onnx().add("Cast", {last}, {{"to", static_cast<std::int64_t>(OnnxDtype::kFloat)}},
                        {.dtype = OnnxDtype::kFloat, .sizes = sizes(last)});
    }
    const LayerPlan& head = layer_plan(node(graph_.output()), node(graph_.output()).inputs[1]);
    const OnnxType type{.dtype = OnnxDtype::kFloat, .sizes = shape};
    last = onnx().add("Reshape", {last, onnx().ints(shape)}, {}, type);
    if (is_static() && head.format.is_quantized()) {
      last = finish_value(last, logits.range).id;
    }
    onnx().output(last, graph_.output_name());
  }

  const Model& model_;
  const Graph& graph_;
  const QuantizationPlan& plan_;
  const PositionValues& positions_;
  const GraphPart& part_;
  OnnxDtype arithmetic_;
  const GraphActivations* ranges_;
  int bits_;
  OnnxModel& target_;
  LoweredModel& result_;
  std::vector<std::optional<Value>> mapped_;
  std::map<std::tuple<std::string, int, std::int64_t, Sizes>, Id> externals_;  // by reader, type and place
  std::map<std::pair<Id, Sizes>, Value> reshaped_;
  std::map<float, Value> masks_;  // by what hides; all have the model's block length
};

// Bytes of the weights that a part's operators use.
std::int64_t weight_bytes(const Graph& graph, const QuantizationPlan& plan, const GraphPart& part) {
  std::int64_t bytes = 0;
  for (ValueId value = part.begin; value < part.end; ++value) {
    const Node& user = graph.node(value);
    for (const ValueId input : user.inputs) {
      if (graph.node(input).op == Op::kWeight) {
        const LayerPlan& layer = plan.at(user.name, graph.tensor(input));
        bytes += layer.value_bytes() + layer.scale_bytes();
      }
    }
  }
  return bytes;
}

// Neighbouring pieces, joined to `count` parts of about the same bytes of weights.
std::vector<GraphPart> join(const Graph& graph, const QuantizationPlan& plan, const std::vector<GraphPart>& pieces,
                            std::int64_t count) {
  if (count > static_cast<std::int64_t>(pieces.size())) {
    throw Error(ErrorCode::kUnsupported, "shards",
                std::to_string(count) + " are more than the " + std::to_string(pieces.size()) +
                    " pieces that the model can be cut into");
  }
  std::vector<std::int64_t> bytes;
  for (const GraphPart& piece : pieces) {
    bytes.push_back(weight_bytes(graph, plan, piece));
  }
  const auto total = static_cast<double>(std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0}));
  std::vector<GraphPart> parts;
  double before = 0.0;  // bytes of the pieces so far
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const auto made = static_cast<std::int64_t>(parts.size());
    // A part begins where the middle of its first piece lies behind its share of the whole, or where as many pieces are
    // left as parts.
    const double middle = before + static_cast<double>(bytes[i]) / 2.0;
    const bool is_due = middle * static_cast<double>(count) > total * static_cast<double>(made);
    const bool is_last_chance = static_cast<std::int64_t>(pieces.size() - i) == count - made;
    if (made == 0 || (made < count && (is_due || is_last_chance))) {
      parts.push_back(pieces[i]);
    } else {
      parts.back().end = pieces[i].end;
      parts.back().output_name = pieces[i].output_name;
    }
    before += static_cast<double>(bytes[i]);
  }
  return parts;
}

}  // namespace

Encoding choose_encoding(const ActivationRange& range, int bits) {
  const AffineScale scale = affine_scale(range, bits);
  return {.bits = bits, .scale = scale.scale, .zero_point = scale.zero_point + (1 << (bits - 1))};
}

std::unique_ptr<LoweredModel> lower(const Model& model, const QuantizationPlan& plan, const PositionValues& positions,
                                    DistinctTensors& distinct, const LoweringSettings& settings) {
  auto result = std::make_unique<LoweredModel>(*model.checkpoint, distinct, plan.config.saturate_fp16);
  const GraphActivations* ranges = settings.is_static ? &observed_ranges(model.graph, plan.config) : nullptr;
  const auto lower_part = [&](const GraphPart& part, std::string stem, bool on_host) {
    auto& target = *result->models.emplace_back(std::make_unique<OnnxModel>(std::move(stem)));
    target.on_host = on_host;
    const GraphActivations* own_ranges = on_host ? nullptr : ranges;
    Lowering(model, plan, positions, part, settings.arithmetic, own_ranges, target, *result).run();
  };
  std::vector<GraphPart> pieces = layers_of(model.graph);
  if (settings.host_embedding) {
    lower_part(pieces.front(), "embedding", true);
    pieces.erase(pieces.begin());
  }
  const std::vector<GraphPart> shards = join(model.graph, plan, pieces, settings.shards);
  for (std::size_t i = 0; i < shards.size(); ++i) {
    lower_part(shards[i], shards.size() == 1 ? "model" : "model_" + std::to_string(i), false);
  }
  return result;
}

}  // namespace diffulex_edge::qnn
