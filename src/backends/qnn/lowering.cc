#include "backends/qnn/lowering.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "backends/qnn/attention_operators.h"
#include "backends/qnn/mask_ranges.h"
#include "backends/qnn/shards.h"
#include "backends/qnn/value_writer.h"
#include "backends/qnn/weight_operators.h"
#include "diffulex_edge/error.h"
#include "graph/graph_parts.h"
#include "quant/static_graph.h"

namespace diffulex_edge::qnn {
namespace {

const ActivationRange kWave = {.min = -1.0F, .max = 1.0F};

std::int64_t product(const Sizes& sizes) {
  std::int64_t result = 1;
  for (const std::int64_t size : sizes) {
    result *= size;
  }
  return result;
}

// A value's own sizes; the sequence is as long as it may be.
Sizes own_sizes(const Shape& shape) {
  Sizes result;
  for (const Dim& dim : shape) {
    result.push_back(dim.value);
  }
  return result;
}

// A value's sizes in ONNX. Those of a decoder have what its operators want: the residual stream [1, seq, C] and what
// linear layers make of it are [seq, C], heads [seq, H, D] are [1, seq, H, D]. All others have their own. The elements'
// order is the same in any case, so that broadcasting and what goes along the last axis see no difference.
Sizes layout(const Shape& shape) {
  Sizes result = own_sizes(shape);
  if (result.size() == 3 && shape[1].is_sequence && result[0] == 1) {
    result.erase(result.begin());
  } else if (result.size() == 3 && shape[0].is_sequence) {
    result.insert(result.begin(), 1);
  }
  return result;
}

// The ONNX operator of one that is applied to each element.
std::string_view elementwise(Op op) {
  switch (op) {
    case Op::kAdd:
      return "Add";
    case Op::kSubtract:
      return "Sub";
    case Op::kMultiply:
      return "Mul";
    case Op::kDivide:
      return "Div";
    case Op::kNegate:
      return "Neg";
    case Op::kSquareRoot:
      return "Sqrt";
    case Op::kSigmoid:
      return "Sigmoid";
    case Op::kTanh:
      return "Tanh";
    case Op::kExp:
      return "Exp";
    case Op::kSin:
      return "Sin";
    case Op::kCos:
      return "Cos";
    case Op::kFloor:
      return "Floor";
    default:
      throw Error(ErrorCode::kInternal, std::string(to_string(op)), "is no operator of elements");
  }
}

// What calibration found, as integers are to cover it.
std::optional<GraphActivations> covered_ranges(const Graph& graph, const GraphActivations* observed, int bits) {
  if (observed == nullptr) {
    return std::nullopt;
  }
  GraphActivations result;
  for (const ActivationRange& range : observed->values) {
    result.values.push_back(with_headroom(range, bits));
  }
  for (std::size_t i = 0; i < graph.nodes().size(); ++i) {
    if (graph.nodes()[i].op == Op::kAttention) {
      const auto value = static_cast<ValueId>(i);
      result.scores[value] = with_headroom(observed_scores(*observed, value), bits);
    }
  }
  return result;
}

// Lowers one part of the graph to one ONNX model.
class Lowering {
 public:
  // `ranges` in mode static, else nullptr: floating point.
  // `graph` is the model's, in the length that is computed at once.
  Lowering(const Model& model, const Graph& graph, const QuantizationPlan& plan, const KnownValues& known,
           const GraphPart& part, const LoweringSettings& settings, const GraphActivations* ranges, OnnxModel& target,
           LoweredModel& result)
      : graph_(graph),
        plan_(plan),
        known_(known),
        part_(part),
        bits_(plan.target.static_bits),
        covered_(covered_ranges(graph_, ranges, bits_)),
        masks_(graph_, known, covered_ ? &*covered_ : nullptr, bits_),
        target_(target),
        writer_(target.graph, result.data, target.encodings, settings.arithmetic, bits_of_values()),
        weights_(model, plan.config, settings.arithmetic, bits_of_values(), target.graph, writer_, result),
        attention_(writer_, bits_of_values()),
        is_used_(used_values(graph_)),
        mapped_(graph_.nodes().size()) {
    if (settings.cache) {
      const float hiding = hiding_score(graph_, covered_ ? &*covered_ : nullptr, bits_);
      result.mask = target.on_host ? result.mask : mask_values(hiding, bits_of_values());
      step_.emplace(*settings.cache, hiding, target_, writer_, result.data, settings.arithmetic, bits_of_values());
    }
  }

  void run() {
    reserve_names();
    if (part_.input) {
      const Shape& shape = node(*part_.input).shape;
      const Id stream = onnx().input(part_.input_name, writer_.float_type(own_sizes(shape)));
      mapped_[static_cast<std::size_t>(*part_.input)] =
          writer_.reshape(writer_.finish(stream, range_of_value(*part_.input)), layout(shape));
    }
    for (ValueId value = part_.begin; value < part_.end; ++value) {
      lower_node(value);
    }
    finish();
  }

 private:
  OnnxGraph& onnx() { return target_.graph; }
  bool is_static() const { return covered_.has_value(); }
  std::optional<int> bits_of_values() const { return is_static() ? std::optional(bits_) : std::nullopt; }
  const Node& node(ValueId value) const { return graph_.node(value); }
  const Sizes& sizes(Id id) const { return writer_.sizes(id); }

  // Inputs and outputs have the names that they were given, whatever layers are called.
  void reserve_names() {
    for (ValueId value = part_.begin; value < part_.end; ++value) {
      if (node(value).op == Op::kInput) {
        onnx().reserve(node(value).name);
        if (node(value).name == graph_.output_name()) {
          throw Error(ErrorCode::kInvalidArgument, "output '" + graph_.output_name() + "'", "has the name of an input");
        }
      }
    }
    onnx().reserve(is_last() ? graph_.output_name() : part_.output_name);
  }
  bool is_last() const { return part_.end == static_cast<ValueId>(graph_.nodes().size()); }

  // --- Ranges.

  ActivationRange range_of_value(ValueId value) const {
    if (!covered_) {
      return {};
    }
    const ActivationRange* sum = node(value).op == Op::kAdd ? masks_.sum(value) : nullptr;
    ActivationRange range = sum == nullptr ? covered_->values[static_cast<std::size_t>(value)] : *sum;
    if (const std::optional<float> least = masks_.least(value)) {
      range.min = std::max(range.min, *least);
    }
    return range;
  }

  ActivationRange range_of_scores(ValueId attention) const {
    return covered_ ? covered_->scores.at(attention) : ActivationRange{};
  }

  // --- The graph's nodes.

  // Values that follow from no input are made again in each part that reads them.
  Value mapped(ValueId value) {
    std::optional<Value>& slot = mapped_[static_cast<std::size_t>(value)];
    if (slot) {
      return *slot;
    }
    if (known_.find(value) != nullptr) {
      slot = known_value(value);
    } else if (node(value).op == Op::kInput || node(value).op == Op::kWeight) {
      throw Error(ErrorCode::kInternal, std::string(to_string(node(value).op)), "has no value");
    } else {
      slot = lower_operator(value);
    }
    return *slot;
  }

  Value known_value(ValueId value) {
    std::vector<float> values = *known_.find(value);
    const std::optional<float> least = masks_.least(value);
    for (float& number : values) {
      if (std::isnan(number)) {
        throw Error(ErrorCode::kInvalidArgument, std::string(to_string(node(value).op)),
                    "has a value that is not a number");
      }
      number = least ? std::max(number, *least) : number;
    }
    const bool is_constant = node(value).op == Op::kConstant;
    if (step_ && !is_constant) {
      return rows_of_positions(*step_, value, values);
    }
    return writer_.constant(values, layout(node(value).shape), is_constant ? "constant" : "positions");
  }

  // Of the step's tokens, from a table of all positions.
  Value rows_of_positions(StepTensors& step, ValueId value, std::span<const float> table) {
    const Shape& shape = node(value).shape;
    const auto is_sequence = [](const Dim& dim) { return dim.is_sequence; };
    if (std::ranges::none_of(shape, is_sequence)) {
      return writer_.constant(table, layout(shape), "positions");
    }
    if (!shape.front().is_sequence || std::ranges::count_if(shape, is_sequence) > 1) {
      throw Error(ErrorCode::kInternal, std::string(to_string(node(value).op)), "has no row for each position");
    }
    const std::int64_t row = product(own_sizes(shape)) / shape.front().value;
    const auto positions = static_cast<std::int64_t>(table.size()) / row;
    return laid_out(step.rows(writer_.constant(table, {positions, row}, "positions")), value);
  }

  // Numbers, and ids as such.
  Value number(ValueId value) {
    const Value found = mapped(value);
    if (onnx().type(found.id).dtype != OnnxDtype::kInt32) {
      return found;
    }
    return writer_.finish(writer_.cast(found.id), range_of_value(value));
  }

  // In its own sizes, for operators with axes.
  Value in_own_sizes(ValueId value) { return writer_.reshape(mapped(value), own_sizes(node(value).shape)); }

  Value laid_out(const Value& made, ValueId value) { return writer_.reshape(made, layout(node(value).shape)); }

  void lower_node(ValueId value) {
    const Op op = node(value).op;
    // Weights, masks and what positions decide are made where they are used.
    const bool is_elsewhere = op == Op::kWeight || op == Op::kBlockCausalMask || known_.find(value) != nullptr;
    const bool is_wanted = op == Op::kInput || is_used_[static_cast<std::size_t>(value)];
    if (is_wanted && !is_elsewhere && !mapped_[static_cast<std::size_t>(value)]) {
      mapped_[static_cast<std::size_t>(value)] = lower_operator(value);
    }
  }

  Value lower_operator(ValueId value) {
    const Node& current = node(value);
    switch (current.op) {
      case Op::kInput:
        return input(value);
      case Op::kEmbedding:
        return node(current.inputs[0]).op == Op::kWeight ? embedding(value) : gather(value);
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
      case Op::kSwiGlu:
        return swiglu(value);
      case Op::kReshape:
        return laid_out(mapped(current.inputs[0]), value);
      case Op::kTranspose:
        return laid_out(
            writer_.transpose(in_own_sizes(current.inputs[0]), std::get<AxesAttributes>(current.attributes).axes),
            value);
      case Op::kSlice: {
        const auto& part = std::get<SliceAttributes>(current.attributes);
        return laid_out(writer_.slice(in_own_sizes(current.inputs[0]), part.axis, part.begin, part.end), value);
      }
      case Op::kConcat:
        return concat(value);
      case Op::kMatMul:
        return matmul(value);
      case Op::kWeight:
      case Op::kConstant:
      case Op::kPositions:
      case Op::kPositionTable:
      case Op::kBlockCausalMask:
        throw Error(ErrorCode::kUnsupported, std::string(to_string(current.op)), "is no value that QNN computes");
      default:
        return laid_out(of_elements(value), value);
    }
  }

  // Elements by themselves, or along the last axis.
  Value of_elements(ValueId value) {
    const Node& current = node(value);
    const Value x = number(current.inputs[0]);
    const ActivationRange range = range_of_value(value);
    switch (current.op) {
      case Op::kAdd:
      case Op::kSubtract:
      case Op::kMultiply:
      case Op::kDivide:
        return writer_.binary(elementwise(current.op), x, number(current.inputs[1]), range);
      case Op::kSquare:
        return writer_.binary("Mul", x, x, range);
      case Op::kReciprocalSquareRoot: {
        const ActivationRange roots{.min = 0.0F, .max = std::sqrt(std::max(0.0F, x.range.max))};
        const Value root = writer_.unary("Sqrt", x, roots);
        const float one = 1.0F;
        return writer_.binary("Div", writer_.constant(std::span(&one, 1), {}, "one"), root, range);
      }
      case Op::kSigmoid:
        return writer_.unary("Sigmoid", x, kShares);
      case Op::kSoftmax:
        return writer_.unary("Softmax", x, kShares, {{"axis", std::int64_t{-1}}});
      case Op::kTanh:
      case Op::kSin:
      case Op::kCos:
        return writer_.unary(elementwise(current.op), x, kWave);
      case Op::kGelu: {
        const bool tanh = std::get<GeluAttributes>(current.attributes).tanh;
        return writer_.unary("Gelu", x, range, {{"approximate", std::string(tanh ? "tanh" : "none")}}, current.name);
      }
      case Op::kClamp:
        return clamp(x, value);
      case Op::kReduceMean: {
        OnnxType type = onnx().type(x.id);
        type.sizes.back() = 1;
        return writer_.finish(
            onnx().add("ReduceMean", {x.id, onnx().ints({-1})}, {{"keepdims", std::int64_t{1}}}, std::move(type)),
            range);
      }
      default:
        return writer_.unary(elementwise(current.op), x, range);
    }
  }

  Value clamp(const Value& x, ValueId value) {
    const auto& limits = std::get<ClampAttributes>(node(value).attributes);
    std::vector<Id> inputs = {x.id};
    const auto add_limit = [&](float limit) {
      inputs.push_back(std::isfinite(limit) ? writer_.floats(std::span(&limit, 1), {}, "limit") : -1);
    };
    add_limit(limits.min);
    if (std::isfinite(limits.max)) {
      add_limit(limits.max);
    }
    return inputs == std::vector<Id>{x.id, -1}
               ? x
               : writer_.finish(onnx().add("Clip", inputs, {}, onnx().type(x.id)), range_of_value(value));
  }

  Value concat(ValueId value) {
    std::vector<Value> values;
    for (const ValueId input : node(value).inputs) {
      values.push_back(in_own_sizes(input));
    }
    return laid_out(writer_.concat(std::move(values), std::get<AxesAttributes>(node(value).attributes).axes[0]), value);
  }

  Value matmul(ValueId value) {
    const Node& current = node(value);
    const Value a = number(current.inputs[0]);
    Value b = number(current.inputs[1]);
    if (std::get<MatMulAttributes>(current.attributes).transpose_b) {
      Sizes axes;
      for (std::size_t i = 0; i < sizes(b.id).size(); ++i) {
        axes.push_back(static_cast<std::int64_t>(i));
      }
      std::swap(axes[axes.size() - 2], axes.back());
      b = writer_.transpose(b, axes);
    }
    return laid_out(writer_.matmul(a, b, range_of_value(value)), value);
  }

  // Numbers come as float32, ids as int32.
  Value input(ValueId value) {
    const Node& current = node(value);
    const bool is_float = current.dtype == DType::kF32;
    const OnnxType type{.dtype = is_float ? OnnxDtype::kFloat : OnnxDtype::kInt32, .sizes = own_sizes(current.shape)};
    const Id tensor = onnx().input(current.name, type);
    if (!is_float) {
      return laid_out({.id = tensor, .range = {}}, value);
    }
    return laid_out(writer_.finish(writer_.cast(tensor), range_of_value(value)), value);
  }

  // Of any rank, as a table's rows take them.
  Id ids_of(ValueId value) {
    const std::vector<float>* known = known_.find(value);
    if (known == nullptr) {
      const Value ids = in_own_sizes(value);
      if (onnx().type(ids.id).dtype != OnnxDtype::kInt32) {
        throw Error(ErrorCode::kUnsupported, std::string(to_string(node(value).op)),
                    "computes numbers, and QNN looks up rows only by integers");
      }
      return ids.id;
    }
    std::vector<std::int32_t> rows;
    for (const float row : *known) {
      rows.push_back(static_cast<std::int32_t>(std::lround(row)));
    }
    return onnx().constant({.dtype = OnnxDtype::kInt32, .sizes = own_sizes(node(value).shape)},
                           std::as_bytes(std::span(rows)), "ids");
  }

  Value gather(ValueId value) {
    const Node& current = node(value);
    return laid_out(writer_.gather(number(current.inputs[0]), ids_of(current.inputs[1])), value);
  }

  // --- Operators with weights.

  const LayerPlan& layer_plan(const Node& user, ValueId weight) const {
    return plan_.at(user.name, graph_.tensor(weight));
  }

  Value embedding(ValueId value) {
    const Node& current = node(value);
    const LayerPlan& plan = layer_plan(current, current.inputs[0]);
    Id ids = ids_of(current.inputs[1]);
    const Sizes flat = {product(sizes(ids))};
    if (sizes(ids) != flat) {
      ids = onnx().add("Reshape", {ids, onnx().ints(flat)}, {}, {.dtype = OnnxDtype::kInt32, .sizes = flat}, "ids");
    }
    return laid_out(writer_.finish(weights_.rows(plan, ids), range_of_value(value)), value);
  }

  // A norm's weight or a bias.
  std::vector<float> vector_of(const Node& user, ValueId input) {
    if (node(input).op == Op::kWeight) {
      return weights_.vector(layer_plan(user, input));
    }
    if (const std::vector<float>* known = known_.find(input)) {
      return *known;
    }
    throw Error(ErrorCode::kUnsupported, user.name.empty() ? std::string(to_string(user.op)) : user.name,
                "has a weight or bias that is computed from the model's inputs, which QNN does not take");
  }

  // Of the output, a linear layer in floating point: its values need no integers.
  bool is_float_head(ValueId value) const {
    const Node& head = node(value);
    return value == graph_.output() && head.op == Op::kLinear &&
           !layer_plan(head, head.inputs[1]).format.is_quantized();
  }

  Value linear(ValueId value) {
    const Node& current = node(value);
    if (node(current.inputs[1]).op != Op::kWeight) {
      throw Error(ErrorCode::kUnsupported, current.name.empty() ? "linear" : current.name,
                  "has a weight that is computed, which QNN takes only in a matmul");
    }
    const LayerPlan& plan = layer_plan(current, current.inputs[1]);
    const Value source = number(current.inputs[0]);
    const bool has_bias = current.inputs.size() == 3;
    std::optional<std::vector<float>> bias;
    if (has_bias) {
      bias = vector_of(current, current.inputs[2]);
    }
    // Before the bias, values may lie further out by as much.
    ActivationRange before = range_of_value(value);
    if (bias) {
      const ActivationRange offsets = range_of(*bias);
      before = {.min = before.min - offsets.max, .max = before.max - offsets.min};
    }
    const Value x = writer_.reshape(source, {product(sizes(source.id)) / plan.columns, plan.columns});
    Value result = weights_.multiply(plan, x, before, value == graph_.output());
    if (bias) {
      const Value added = writer_.constant(*bias, {plan.rows}, plan.layer + ".bias");
      result = writer_.binary("Add", result, added, range_of_value(value));
    }
    return is_float_head(value) ? result : laid_out(result, value);
  }

  // In two dimensions: with three or four, the compiler of QAIRT 2.51 computes rows of 32 wrongly, and says nothing.
  Value rms_norm(ValueId value) {
    const Node& current = node(value);
    const Value source = number(current.inputs[0]);
    const Sizes shape = sizes(source.id);
    const std::int64_t size = shape.back();
    const Value x = writer_.reshape(source, {product(shape) / size, size});
    const std::vector<float> weight = vector_of(current, current.inputs[1]);
    const Value factors = writer_.constant(weight, {size}, current.name + ".weight");
    const Value normalized = writer_.finish(
        onnx().add("RMSNormalization", {x.id, factors.id},
                   {{"axis", std::int64_t{-1}}, {"epsilon", std::get<RmsNormAttributes>(current.attributes).epsilon}},
                   onnx().type(x.id), current.name),
        range_of_value(value));
    return writer_.reshape(normalized, shape);
  }

  // Of any rank. In integers, the compiler takes it only with a bias.
  Value layer_norm(ValueId value) {
    const Node& current = node(value);
    const Value x = number(current.inputs[0]);
    const std::int64_t size = sizes(x.id).back();
    const std::string name = current.name.empty() ? "layer_norm" : current.name;
    std::vector<float> weight(static_cast<std::size_t>(size), 1.0F);
    std::vector<float> bias(weight.size(), 0.0F);
    if (current.inputs.size() > 1) {
      weight = vector_of(current, current.inputs[1]);
    }
    if (current.inputs.size() > 2) {
      bias = vector_of(current, current.inputs[2]);
    }
    std::vector<Id> inputs = {x.id, writer_.constant(weight, {size}, name + ".weight").id};
    if (current.inputs.size() > 2 || is_static()) {
      inputs.push_back(writer_.constant(bias, {size}, name + ".bias").id);
    }
    return writer_.finish(
        onnx().add("LayerNormalization", std::move(inputs),
                   {{"axis", std::int64_t{-1}}, {"epsilon", std::get<LayerNormAttributes>(current.attributes).epsilon}},
                   onnx().type(x.id), name),
        range_of_value(value));
  }

  Value rope(ValueId value) {
    const Node& current = node(value);
    const Value x = number(current.inputs[0]);
    const std::int64_t size = sizes(x.id).back();
    const Value first = writer_.slice_last(x, 0, size / 2);
    const Value second = writer_.slice_last(x, size / 2, size);
    const auto axis = static_cast<std::int64_t>(sizes(x.id).size()) - 1;
    const Value swapped = writer_.concat({second, first}, axis);
    const ActivationRange turned = around_zero(x.range);  // |cos| and |sin| are at most 1
    const Value straight = writer_.binary("Mul", x, number(current.inputs[1]), turned);
    const Value crossed = writer_.binary("Mul", swapped, number(current.inputs[2]), turned);
    return writer_.binary("Add", straight, crossed, range_of_value(value));
  }

  // [seq, heads, D] as [1, seq, heads, D].
  Value heads_of(ValueId value) {
    Sizes target = own_sizes(node(value).shape);
    target.insert(target.begin(), 1);
    return writer_.reshape(number(value), target);
  }

  Value attention(ValueId value) {
    const Node& current = node(value);
    AttentionOperands operands;
    operands.queries = heads_of(current.inputs[0]);
    operands.keys = heads_of(current.inputs[1]);
    operands.values = heads_of(current.inputs[2]);
    operands.scale = std::get<AttentionAttributes>(current.attributes).scale;
    operands.scores = range_of_scores(value);
    operands.result = range_of_value(value);
    if (step_) {
      operands.mask.added = step_->mask();
      operands.mask.sum = is_static() ? masked_range(operands.scores, bits_) : ActivationRange{};
      operands.step = &*step_;
      operands.number = std::count_if(graph_.nodes().begin(), graph_.nodes().begin() + value,
                                      [](const Node& before) { return before.op == Op::kAttention; });
    } else if (has_block_mask(graph_, current)) {
      const std::int64_t block = std::get<BlockCausalMaskAttributes>(node(current.inputs[3]).attributes).block_length;
      operands.mask.block_length = block < node(current.inputs[0]).shape[0].value ? block : 0;
    } else if (current.inputs.size() == 4) {
      operands.mask.added = number(current.inputs[3]);
      operands.mask.sum = is_static() ? *masks_.sum(value) : ActivationRange{};
    }
    return laid_out(attention_.attend(operands), value);
  }

  Value swiglu(ValueId value) {
    const Node& current = node(value);
    const Value gate = number(current.inputs[0]);
    const Value up = number(current.inputs[1]);
    const Value share = writer_.unary("Sigmoid", gate, kShares);
    const Value activated = writer_.binary("Mul", gate, share, silu_range(gate.range));
    return writer_.binary("Mul", activated, up, range_of_value(value));
  }

  void finish() {
    if (is_last()) {
      add_output();
    } else {
      onnx().output(in_own_sizes(part_.end - 1).id, part_.output_name);
    }
    if (step_) {
      step_->add_outputs();
    }
  }

  void add_output() {
    const ValueId output = graph_.output();
    const Value value = mapped(output);
    Id last = value.id;
    if (onnx().type(last).dtype != OnnxDtype::kFloat) {
      last = onnx().add("Cast", {last}, {{"to", static_cast<std::int64_t>(OnnxDtype::kFloat)}},
                        {.dtype = OnnxDtype::kFloat, .sizes = sizes(last)});
    }
    const Sizes shape = own_sizes(node(output).shape);
    const OnnxType type{.dtype = OnnxDtype::kFloat, .sizes = shape};
    last = onnx().add("Reshape", {last, onnx().ints(shape)}, {}, type);
    if (is_static() && !is_float_head(output)) {
      last = writer_.finish(last, value.range).id;
    }
    onnx().output(last, graph_.output_name());
  }

  const Graph& graph_;
  const QuantizationPlan& plan_;
  const KnownValues& known_;
  const GraphPart& part_;
  int bits_;
  std::optional<GraphActivations> covered_;  // mode static
  MaskRanges masks_;
  OnnxModel& target_;
  ValueWriter writer_;
  WeightOperators weights_;
  AttentionOperators attention_;
  std::optional<StepTensors> step_;  // of a model with a cache
  std::vector<bool> is_used_;
  std::vector<std::optional<Value>> mapped_;
};

// Only ids that go to the embedding and nowhere else can be left to the host.
void check_begins_with_embedding(const Graph& graph, const std::vector<GraphPart>& pieces) {
  if (pieces.size() < 2 || graph.node(pieces.front().end - 1).op != Op::kEmbedding) {
    throw Error(ErrorCode::kUnsupported, "embedding on host",
                "the model does not begin with an embedding that all the rest follows from");
  }
}

// A piece takes what the one before it made, and nothing else.
void check_inputs(const Graph& graph, std::span<const GraphPart> parts) {
  for (const GraphPart& part : parts) {
    for (ValueId value = part.begin; value < part.end; ++value) {
      if (part.begin > 0 && graph.node(value).op == Op::kInput) {
        throw Error(ErrorCode::kUnsupported, "input '" + graph.node(value).name + "'",
                    "is read behind the first of the model's pieces, which pass one value on",
                    "leave out --shards and --embedding-on");
      }
    }
  }
}

}  // namespace

std::unique_ptr<LoweredModel> lower(const Model& model, const QuantizationPlan& plan, const PositionValues& positions,
                                    DistinctTensors& distinct, const LoweringSettings& settings) {
  auto result = std::make_unique<LoweredModel>(*model.checkpoint, distinct, plan.config.saturate_fp16);
  const GraphActivations* ranges = plan.is_static_everywhere() ? &observed_ranges(model.graph, plan.findings) : nullptr;
  std::vector<GraphPart> pieces = layers_of(model.graph);
  std::optional<GraphPart> embedding;
  if (settings.host_embedding) {
    check_begins_with_embedding(model.graph, pieces);
    embedding = pieces.front();
    pieces.erase(pieces.begin());
  }
  const std::vector<GraphPart> shards = join_pieces(model.graph, plan, pieces, settings.shards);
  check_inputs(model.graph, shards);
  // All parts; `tokens` are those of a step, or 0.
  const auto lower_graph = [&](const Graph& graph, std::int64_t tokens) {
    const KnownValues known(graph, positions);
    const std::string size = tokens == 0 ? "" : "_b" + std::to_string(tokens);
    const auto lower_part = [&](const GraphPart& part, const std::string& stem, bool on_host) {
      auto& target = *result->models.emplace_back(std::make_unique<OnnxModel>(stem));
      target.on_host = on_host;
      target.step_tokens = tokens;
      const GraphActivations* own_ranges = on_host ? nullptr : ranges;
      Lowering(model, graph, plan, known, part, settings, own_ranges, target, *result).run();
    };
    if (embedding) {
      lower_part(*embedding, "embedding" + size, true);
    }
    for (std::size_t i = 0; i < shards.size(); ++i) {
      lower_part(shards[i], "model" + size + (shards.size() == 1 ? "" : "_" + std::to_string(i)), false);
    }
  };
  if (!settings.cache) {
    lower_graph(model.graph, 0);
    return result;
  }
  for (const std::int64_t tokens : settings.cache->block_sizes) {
    const std::size_t layers = result->layers.size();
    lower_graph(with_longest_sequence(model.graph, tokens), tokens);
    if (layers > 0) {  // the same weights again
      result->layers.resize(layers);
    }
  }
  return result;
}

}  // namespace diffulex_edge::qnn
