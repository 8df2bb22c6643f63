#include "backends/coreml/lowering.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "diffulex_edge/error.h"
#include "quant/kernels/kernels.h"

namespace diffulex_edge::coreml {
namespace {

using Id = MilFunction::Id;

// What a masked score gets added: exp() of it is 0 beside any other score, and float16 holds it.
constexpr float kMasked = -1e4F;
// Whole numbers up to here are exact in float16.
constexpr std::int64_t kExactInHalf = 2048;

std::string_view name_of(MilDtype dtype) { return dtype == MilDtype::kFloat16 ? "fp16" : "fp32"; }

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

std::string form_of(MatrixStorage storage) {
  switch (storage) {
    case MatrixStorage::kFloat16:
      return "fp16";
    case MatrixStorage::kFloat32:
      return "fp32";
    case MatrixStorage::kInt8:
      return "int8";
    case MatrixStorage::kInt4:
      return "int4";
    case MatrixStorage::kPalette:
      return "palette4";
  }
  return {};
}

class Lowering {
 public:
  Lowering(const Model& model, const QuantizationPlan& plan, const PositionValues& positions, const GraphPart& part,
           DistinctTensors& distinct, const LoweringSettings& settings)
      : model_(model),
        graph_(model.graph),
        plan_(plan),
        positions_(positions),
        part_(part),
        settings_(settings),
        arithmetic_(settings.weights.arithmetic),
        result_(std::make_unique<LoweredPart>(*model.checkpoint, distinct, settings.weights)),
        mapped_(graph_.nodes().size()) {}

  std::unique_ptr<LoweredPart> run() {
    if (part_.input) {
      define(*part_.input, function().input(part_.input_name, value_type(*part_.input)));
      length_source_ = mapped(*part_.input);
    }
    for (ValueId value = part_.begin; value < part_.end; ++value) {
      lower_node(value);
    }
    finish();
    return std::move(result_);
  }

 private:
  MilFunction& function() { return result_->function; }
  std::optional<Id>& slot(ValueId value) { return mapped_[static_cast<std::size_t>(value)]; }
  const Node& node(ValueId value) const { return graph_.node(value); }
  void define(ValueId value, Id id) { slot(value) = id; }

  // --- Types.

  Shape run_time_shape(Shape shape) const {
    for (Dim& dim : shape) {
      dim.is_sequence = dim.is_sequence && !settings_.fixed_length;
    }
    return shape;
  }
  MilType float_type(const Shape& shape) const { return {.dtype = arithmetic_, .shape = run_time_shape(shape)}; }
  MilType value_type(ValueId value) const { return float_type(node(value).shape); }
  const Shape& shape(Id id) { return function().type(id).shape; }
  Dim sequence() const { return {.value = model_.seq_len, .is_sequence = !settings_.fixed_length}; }

  // As `reshape` spells a size: -1 is the one that follows from the others.
  std::vector<std::int32_t> reshape_sizes(const Shape& shape) const {
    std::vector<std::int32_t> sizes;
    for (const Dim& dim : run_time_shape(shape)) {
      sizes.push_back(dim.is_sequence ? -1 : static_cast<std::int32_t>(dim.value));
    }
    return sizes;
  }

  // --- Operations.

  Id scalar(float value) { return function().constant(float_literal(arithmetic_, value)); }
  Id ints(std::vector<std::int32_t> values) { return function().constant(ints_literal(std::move(values))); }
  Id integer(std::int32_t value) { return function().constant(int_literal(value)); }
  Id boolean(bool value) { return function().constant(bool_literal(value)); }
  Id text(std::string value) { return function().constant(string_literal(std::move(value))); }

  Id unary(std::string_view operation, Id x) { return function().add(operation, {{"x", {x}}}, function().type(x)); }

  // Shapes broadcast as `larger` has it.
  Id binary(std::string_view operation, Id x, Id y, MilType type) {
    return function().add(operation, {{"x", {x}}, {"y", {y}}}, std::move(type));
  }

  Id reshape(Id x, const Shape& target) {
    return function().add("reshape", {{"x", {x}}, {"shape", {ints(reshape_sizes(target))}}},
                          {.dtype = function().type(x).dtype, .shape = run_time_shape(target)});
  }

  Id transpose(Id x, const std::vector<std::int32_t>& permutation) {
    Shape target;
    for (const std::int32_t axis : permutation) {
      target.push_back(shape(x)[static_cast<std::size_t>(axis)]);
    }
    return function().add("transpose", {{"x", {x}}, {"perm", {ints(permutation)}}},
                          {.dtype = function().type(x).dtype, .shape = std::move(target)});
  }

  Id expand_dims(Id x, std::int32_t axis) {
    Shape target = shape(x);
    target.insert(target.begin() + axis, Dim{.value = 1});
    return function().add("expand_dims", {{"x", {x}}, {"axes", {ints({axis})}}},
                          {.dtype = function().type(x).dtype, .shape = std::move(target)});
  }

  Id reduce(std::string_view operation, Id x) {
    MilType type = function().type(x);
    type.shape.back() = {.value = 1};
    return function().add(operation, {{"x", {x}}, {"axes", {ints({-1})}}, {"keep_dims", {boolean(true)}}}, type);
  }

  Id cast(Id x, MilDtype dtype, std::string_view name = {}) {
    if (function().type(x).dtype == dtype) {
      return x;
    }
    MilType type = function().type(x);
    type.dtype = dtype;
    return function().add("cast", {{"x", {x}}, {"dtype", {text(std::string(name_of(dtype)))}}}, type, name);
  }

  // x[..., begin:end] of the last dimension.
  Id slice_last(Id x, std::int64_t begin, std::int64_t end) {
    MilType type = function().type(x);
    const std::size_t rank = type.shape.size();
    type.shape.back() = {.value = end - begin};
    std::vector<std::int32_t> begins(rank, 0);
    std::vector<std::int32_t> ends(rank, 0);
    std::vector<bool> whole_axis(rank, true);
    begins.back() = static_cast<std::int32_t>(begin);
    ends.back() = static_cast<std::int32_t>(end);
    whole_axis.back() = false;
    const Id mask = function().constant(bools_literal(whole_axis));
    return function().add(
        "slice_by_index",
        {{"x", {x}}, {"begin", {ints(begins)}}, {"end", {ints(ends)}}, {"begin_mask", {mask}}, {"end_mask", {mask}}},
        type);
  }

  // --- Values that depend on positions.

  // The input's length as int32 [1].
  Id length() {
    if (!length_) {
      const Id shape_of = function().add(
          "shape", {{"x", {length_source_}}},
          {.dtype = MilDtype::kInt32, .shape = {{.value = static_cast<std::int64_t>(shape(length_source_).size())}}});
      length_ = function().add("slice_by_index", {{"x", {shape_of}}, {"begin", {ints({1})}}, {"end", {ints({2})}}},
                               {.dtype = MilDtype::kInt32, .shape = {{.value = 1}}}, "length");
    }
    return *length_;
  }

  // A constant whose first dimension is the longest sequence, cut to the input's length.
  Id cut_to_length(Id table) {
    if (settings_.fixed_length) {
      return table;
    }
    MilType type = function().type(table);
    const std::size_t rank = type.shape.size();
    type.shape.front() = sequence();
    std::vector<Id> ends = {length()};
    if (rank > 1) {
      ends.push_back(ints(std::vector<std::int32_t>(rank - 1, 0)));
    }
    const Id end =
        rank == 1 ? ends[0]
                  : function().add("concat", {{"values", ends}, {"axis", {integer(0)}}},
                                   {.dtype = MilDtype::kInt32, .shape = {{.value = static_cast<std::int64_t>(rank)}}});
    std::vector<bool> whole_axis(rank, true);
    const Id begin_mask = function().constant(bools_literal(whole_axis));
    whole_axis.front() = false;
    const Id end_mask = function().constant(bools_literal(whole_axis));
    return function().add("slice_by_index",
                          {{"x", {table}},
                           {"begin", {ints(std::vector<std::int32_t>(rank, 0))}},
                           {"end", {end}},
                           {"begin_mask", {begin_mask}},
                           {"end_mask", {end_mask}}},
                          type);
  }

  Id constant_floats(std::span<const float> values, const Shape& full, std::string_view name) {
    const BlobReference blob = result_->weights.add_computed(values);
    return function().constant(blob_literal(arithmetic_, sizes_at(full, model_.seq_len), blob), name);
  }

  Id mapped(ValueId value) {
    std::optional<Id>& id = slot(value);
    if (!id) {
      const std::vector<float>* values = positions_.find(value);
      if (values != nullptr) {
        id = cut_to_length(constant_floats(*values, node(value).shape, "positions"));
      } else if (node(value).op == Op::kBlockCausalMask) {
        id = block_causal_mask(value);
      } else {
        throw Error(ErrorCode::kInternal, std::string(to_string(node(value).op)), "has no value in this part");
      }
    }
    return *id;
  }

  // clip(block(i) - block(j), -1, 0) * 1e4: 0 where j's block is not behind i's. In arithmetic that every unit has.
  Id block_causal_mask(ValueId value) {
    const std::int64_t block = std::get<BlockCausalMaskAttributes>(node(value).attributes).block_length;
    const bool in_single = arithmetic_ == MilDtype::kFloat32 || model_.seq_len / block > kExactInHalf;
    const MilDtype dtype = in_single ? MilDtype::kFloat32 : arithmetic_;
    std::vector<float> blocks;
    for (std::int64_t i = 0; i < model_.seq_len; ++i) {
      const std::int64_t index = i / block;
      blocks.push_back(static_cast<float>(index));
    }
    const Id table =
        dtype == arithmetic_
            ? constant_floats(blocks, {{.value = model_.seq_len}}, "block_of_position")
            : function().constant({.type = {.dtype = dtype, .shape = {{.value = model_.seq_len}}}, .value = blocks},
                                  "block_of_position");
    const Id cut = cut_to_length(table);
    const MilType square{.dtype = dtype, .shape = {sequence(), sequence()}};
    const Id difference = binary("sub", expand_dims(cut, 1), expand_dims(cut, 0), square);
    const Id behind = function().add("clip",
                                     {{"x", {difference}},
                                      {"alpha", {function().constant(float_literal(dtype, -1.0F))}},
                                      {"beta", {function().constant(float_literal(dtype, 0.0F))}}},
                                     square);
    const Id mask = binary("mul", behind, function().constant(float_literal(dtype, -kMasked)), square);
    return cast(mask, arithmetic_);
  }

  // --- The graph's operators.

  void lower_node(ValueId value) {
    const Node& current = node(value);
    if (positions_.find(value) != nullptr) {
      return;  // made where it is used, as are weights and the mask
    }
    switch (current.op) {
      case Op::kInput:
        define(value,
               function().input("input_ids", {.dtype = MilDtype::kInt32, .shape = run_time_shape(current.shape)}));
        length_source_ = mapped(value);
        return;
      case Op::kWeight:
      case Op::kBlockCausalMask:
        return;
      case Op::kEmbedding:
        return define(value, embedding(value));
      case Op::kLinear:
        return define(value, linear(value));
      case Op::kRmsNorm:
        return define(value, rms_norm(value));
      case Op::kRope:
        return define(value, rope(value));
      case Op::kAttention:
        return define(value, attention(value));
      case Op::kSwiGlu: {
        const Id gate = unary("silu", mapped(current.inputs[0]));
        return define(value, binary("mul", gate, mapped(current.inputs[1]), value_type(value)));
      }
      case Op::kAdd:
        return define(value, binary("add", mapped(current.inputs[0]), mapped(current.inputs[1]), value_type(value)));
      case Op::kReshape:
        return define(value, reshape(mapped(current.inputs[0]), current.shape));
      default:
        throw Error(ErrorCode::kInternal, std::string(to_string(current.op)), "is not lowered to Core ML");
    }
  }

  Id embedding(ValueId value) {
    const Node& current = node(value);
    const Id table = matrix(layer_plan(current, current.inputs[0]), "gather");
    return function().add("gather", {{"x", {table}}, {"indices", {mapped(current.inputs[1])}}, {"axis", {integer(0)}}},
                          value_type(value), "embedding");
  }

  Id linear(ValueId value) {
    const Node& current = node(value);
    const LayerPlan& plan = layer_plan(current, current.inputs[1]);
    Id x = mapped(current.inputs[0]);
    if (plan.activations) {
      x = static_activation(x, activation_scale(plan.activations->input, arithmetic_));
    } else if (plan.format.is_quantized() && plan_.config.mode == QuantizationMode::DYNAMIC) {
      result_->dynamic_as_weight_only = true;
    }
    const std::string kernel = std::string(plan.activations ? "int8" : name_of(arithmetic_));
    MilFunction::Arguments arguments = {{"x", {x}}, {"weight", {matrix(plan, kernel)}}};
    if (current.inputs.size() == 3) {
      arguments.emplace_back("bias", std::vector{vector(current, current.inputs[2])});
    }
    const Id product = function().add("linear", std::move(arguments), value_type(value), plan.layer);
    return plan.activations ? static_activation(product, activation_scale(plan.activations->output, arithmetic_))
                            : product;
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

  // In float16, squares overflow from 256 on: x is divided by its largest magnitude m first. With y = x / m,
  // x / sqrt(mean(x^2) + epsilon) = y / sqrt(mean(y^2) + epsilon / m^2).
  Id rms_norm(ValueId value) {
    const Node& current = node(value);
    Id x = mapped(current.inputs[0]);
    const float epsilon = std::get<RmsNormAttributes>(current.attributes).epsilon;
    const MilType type = value_type(value);
    MilType row = type;
    row.shape.back() = {.value = 1};
    Id mean_square = 0;
    if (arithmetic_ == MilDtype::kFloat16) {
      const float root = std::max(std::sqrt(epsilon), kLeastNormalHalf);
      const Id largest = binary("maximum", reduce("reduce_max", unary("abs", x)), scalar(root), row);
      x = binary("real_div", x, largest, type);
      const Id share = binary("real_div", scalar(root), largest, row);
      mean_square = binary("add", reduce("reduce_mean", unary("square", x)), binary("mul", share, share, row), row);
    } else {
      mean_square = binary("add", reduce("reduce_mean", unary("square", x)), scalar(epsilon), row);
    }
    const Id inverse = function().add("rsqrt", {{"x", {mean_square}}, {"epsilon", {scalar(0.0F)}}}, row);
    const Id normalized = binary("mul", x, inverse, type);
    return function().add("mul", {{"x", {normalized}}, {"y", {vector(current, current.inputs[1])}}}, type,
                          current.name);
  }

  Id rope(ValueId value) {
    const Node& current = node(value);
    const Id x = mapped(current.inputs[0]);
    const MilType type = value_type(value);
    const std::int64_t size = type.shape.back().value;
    const Id first = slice_last(x, 0, size / 2);
    const Id second = slice_last(x, size / 2, size);
    const Id swapped = function().add(
        "concat", {{"values", {second, first}}, {"axis", {integer(-1)}}, {"interleave", {boolean(false)}}}, type);
    const Id straight = binary("mul", x, mapped(current.inputs[1]), type);
    return binary("add", straight, binary("mul", swapped, mapped(current.inputs[2]), type), type);
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
    const Node& current = node(value);
    const std::int64_t heads = node(current.inputs[0]).shape[1].value;
    const std::int64_t size = node(current.inputs[0]).shape[2].value;
    const float scale = std::get<AttentionAttributes>(current.attributes).scale;
    const Id q = heads_first(mapped(current.inputs[0]), heads);
    const Id k = heads_first(mapped(current.inputs[1]), heads);
    const Id v = heads_first(mapped(current.inputs[2]), heads);
    std::optional<Id> mask;
    if (current.inputs.size() == 4) {
      mask = mapped(current.inputs[3]);
    }
    const Id mixed = settings_.target->release >= kBlockwiseRelease ? fused_attention(q, k, v, mask, scale, size)
                                                                    : plain_attention(q, k, v, mask, scale);
    return reshape(transpose(mixed, {0, 2, 1, 3}), current.shape);
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
    type.shape.back() = type.shape[2];
    Id scores = function().add(
        "matmul", {{"x", {q}}, {"y", {k}}, {"transpose_x", {boolean(false)}}, {"transpose_y", {boolean(true)}}}, type);
    if (mask) {
      scores = binary("add", scores, *mask, type);
    }
    const Id shares = function().add("softmax", {{"x", {scores}}, {"axis", {integer(-1)}}}, type);
    return function().add(
        "matmul", {{"x", {shares}}, {"y", {v}}, {"transpose_x", {boolean(false)}}, {"transpose_y", {boolean(false)}}},
        function().type(v));
  }

  // --- Weights.

  const LayerPlan& layer_plan(const Node& user, ValueId weight) const {
    return plan_.at(user.name, graph_.tensor(weight));
  }

  void note_layer(LayerPlan plan, std::string kernel, std::int64_t bytes) {
    if (!plan.format.is_quantized()) {
      const bool half = arithmetic_ == MilDtype::kFloat16 || plan.format.element == ElementType::kF16;
      plan.format = float_format(half ? ElementType::kF16 : ElementType::kF32);
    }
    result_->layers.push_back({.plan = std::move(plan), .kernel = std::move(kernel), .stored_bytes = bytes});
  }

  // A norm's weight or a bias.
  Id vector(const Node& user, ValueId weight) {
    const LayerPlan& plan = layer_plan(user, weight);
    bool is_new = false;
    const BlobReference blob = result_->weights.add_vector(plan, is_new);
    const std::int64_t bytes = plan.columns * (arithmetic_ == MilDtype::kFloat16 ? 2 : 4);
    LayerPlan stored = plan;
    stored.format = float_format(ElementType::kF32);
    note_layer(std::move(stored), "", is_new ? bytes : 0);
    return function().constant(blob_literal(arithmetic_, std::vector{plan.columns}, blob), plan.layer + "_vector");
  }

  // A matrix in the arithmetic's type, from whatever form it is stored in; equal ones are made once.
  Id matrix(const LayerPlan& plan, const std::string& user) {
    const StoredMatrix stored = result_->weights.add_matrix(plan);
    note_layer(plan, user + " x " + form_of(stored.storage), stored.is_new ? stored.bytes : 0);
    const auto [position, inserted] = matrices_.emplace(std::pair(stored.values.file, stored.values.offset), 0);
    if (inserted) {
      position->second = make_matrix(plan, stored);
    }
    return position->second;
  }

  Id make_matrix(const LayerPlan& plan, const StoredMatrix& stored) {
    const std::vector<std::int64_t> sizes = {plan.rows, plan.columns};
    const MilType type{.dtype = arithmetic_, .shape = static_shape(sizes)};
    const std::string name = plan.layer + "_weight";
    switch (stored.storage) {
      case MatrixStorage::kFloat32:
        return function().constant(blob_literal(MilDtype::kFloat32, sizes, stored.values), name);
      case MatrixStorage::kFloat16: {
        MilLiteral literal = blob_literal(MilDtype::kFloat16, sizes, stored.values);
        if (arithmetic_ == MilDtype::kFloat16) {
          return function().constant(std::move(literal), name);
        }
        return function().add_constexpr("constexpr_cast",
                                        {{"source_val", std::move(literal)}, {"output_dtype", string_literal("fp32")}},
                                        true, type, name);
      }
      case MatrixStorage::kInt8:
      case MatrixStorage::kInt4:
        return scaled_matrix(plan, stored, type, name);
      case MatrixStorage::kPalette:
        return palette_matrix(plan, stored, type, name);
    }
    throw Error(ErrorCode::kInternal, plan.layer, "has an unknown storage");
  }

  Id scaled_matrix(const LayerPlan& plan, const StoredMatrix& stored, const MilType& type, const std::string& name) {
    const std::vector<std::int64_t> sizes = {plan.rows, plan.columns};
    if (settings_.target->release >= kBlockwiseRelease) {
      const MilDtype element = stored.storage == MatrixStorage::kInt8 ? MilDtype::kInt8 : MilDtype::kInt4;
      const std::vector<std::int64_t> scales = {plan.rows, stored.scales_per_row};
      return function().add_constexpr("constexpr_blockwise_shift_scale",
                                      {{"data", blob_literal(element, sizes, stored.values)},
                                       {"scale", blob_literal(arithmetic_, scales, stored.scales)}},
                                      false, type, name);
    }
    if (stored.storage == MatrixStorage::kInt4) {
      throw Error(ErrorCode::kUnsupported, plan.layer,
                  "INT4 weights with scales need the deployment target iOS18 or macOS15",
                  "raise --minimum-deployment-target, or use --palette");
    }
    const std::vector<std::int64_t> scales = {plan.rows};
    return function().add_constexpr("constexpr_affine_dequantize",
                                    {{"quantized_data", blob_literal(MilDtype::kInt8, sizes, stored.values)},
                                     {"zero_point", int8_literal(0)},
                                     {"scale", blob_literal(arithmetic_, scales, stored.scales)},
                                     {"axis", int_literal(0)}},
                                    true, type, name);
  }

  Id palette_matrix(const LayerPlan& plan, const StoredMatrix& stored, const MilType& type, const std::string& name) {
    const std::vector<std::int64_t> sizes = {plan.rows, plan.columns};
    constexpr std::int64_t kValues = 16;
    if (settings_.weights.has_sub_bytes) {
      const std::vector<std::int64_t> table = {stored.tables_count, 1, kValues, 1};
      return function().add_constexpr("constexpr_lut_to_dense",
                                      {{"indices", blob_literal(MilDtype::kUint4, sizes, stored.values)},
                                       {"lut", blob_literal(arithmetic_, table, stored.tables)}},
                                      false, type, name);
    }
    const std::vector<std::int64_t> bytes = {plan.rows * plan.columns / 2};
    const std::vector<std::int64_t> table = {kValues};
    return function().add_constexpr("constexpr_lut_to_dense",
                                    {{"indices", blob_literal(MilDtype::kUint8, bytes, stored.values)},
                                     {"lut", blob_literal(arithmetic_, table, stored.tables)},
                                     {"shape", uint32s_literal(sizes)}},
                                    true, type, name);
  }

  void finish() {
    const bool is_last = part_.end == static_cast<ValueId>(graph_.nodes().size());
    if (!is_last) {
      function().output(mapped(part_.end - 1), part_.output_name);
      return;
    }
    const Id logits = mapped(graph_.output());
    function().output(cast(logits, MilDtype::kFloat32), graph_.output_name());
  }

  const Model& model_;
  const Graph& graph_;
  const QuantizationPlan& plan_;
  const PositionValues& positions_;
  const GraphPart& part_;
  const LoweringSettings& settings_;
  MilDtype arithmetic_;
  std::unique_ptr<LoweredPart> result_;
  std::vector<std::optional<Id>> mapped_;
  std::map<std::pair<std::string, std::int64_t>, Id> matrices_;  // by their values' place
  std::map<std::tuple<Id, float, std::int32_t>, Id> static_activations_;
  Id length_source_ = -1;  // [1, seq] or [1, seq, C]
  std::optional<Id> length_;
};

}  // namespace

std::unique_ptr<LoweredPart> lower(const Model& model, const QuantizationPlan& plan, const PositionValues& positions,
                                   const GraphPart& part, DistinctTensors& distinct, const LoweringSettings& settings) {
  return Lowering(model, plan, positions, part, distinct, settings).run();
}

}  // namespace diffulex_edge::coreml
