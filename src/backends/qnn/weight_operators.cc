#include "backends/qnn/weight_operators.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

#include "backends/qnn/lowering.h"
#include "diffulex_edge/error.h"
#include "quant/static_graph.h"
#include "quant/weight_decoder.h"

namespace diffulex_edge::qnn {
namespace {

constexpr std::string_view kContrib = "com.microsoft";

}  // namespace

void WeightOperators::note_layer(const LayerPlan& plan, std::string kernel, const StoredMatrix& stored) {
  result_.layers.push_back({.plan = plan, .kernel = std::move(kernel), .stored_bytes = stored.new_bytes});
}

// A matrix of floats, in the arithmetic's type.
Id WeightOperators::float_matrix(LayerPlan plan, const std::string& kernel) {
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
  return graph_.add("Cast", {tensor}, {{"to", static_cast<std::int64_t>(arithmetic_)}}, writer_.float_type(shape));
}

// Equal weights share one tensor where they are read alike: the compiler takes the scale of one reader for all.
Id WeightOperators::external(OnnxType type, ExternalData data, const std::string& name, std::string_view reader) {
  const auto key = std::tuple(std::string(reader), static_cast<int>(type.dtype), data.offset, type.sizes);
  const auto [position, inserted] = externals_.emplace(key, 0);
  if (inserted) {
    position->second = graph_.external(std::move(type), data, name);
  }
  return position->second;
}

Id WeightOperators::zero_points(OnnxDtype dtype, const Sizes& sizes, const std::string& name) {
  const OnnxType type{.dtype = dtype, .sizes = sizes};
  const std::vector<std::byte> zeros(static_cast<std::size_t>(stored_bytes(type)));
  return external(type, result_.data.add_computed(zeros), name);
}

Id WeightOperators::rows(const LayerPlan& plan, Id ids) {
  const std::int64_t count = writer_.sizes(ids)[0];
  const Sizes shape = {count, plan.columns};
  if (!plan.format.is_quantized()) {
    const Id table = float_matrix(plan, "gather");
    return graph_.add("Gather", {table, ids}, {{"axis", std::int64_t{0}}}, writer_.float_type(shape), "embedding");
  }
  if (plan.format.bits() != 8) {
    throw Error(ErrorCode::kUnsupported, plan.layer, "INT4 embeddings are not available with QNN",
                "use --embedding-dtype int8 or fp16");
  }
  // Rows as integers of scale 1, which the compiler keeps in 8 bits, times the scale of each row. They are signed or
  // not as those of a head are, so that a tied one has the same bytes.
  const bool is_signed = bits_.has_value();
  const StoredMatrix stored = result_.data.add_matrix(plan, is_signed ? Packing::kSigned : Packing::kUnsigned);
  const OnnxDtype dtype = is_signed ? OnnxDtype::kInt8 : OnnxDtype::kUint8;
  note_layer(plan, "gather x int8", stored);
  const Sizes all = {plan.rows, plan.columns};
  const float unit = 1.0F;
  const Id one = writer_.floats(std::span(&unit, 1), {}, "one");
  const std::byte middle{is_signed ? std::uint8_t{0} : std::uint8_t{0x80}};
  const Id zero = graph_.constant({.dtype = dtype, .sizes = {}}, std::span(&middle, 1), "zero");
  const Id table = external({.dtype = dtype, .sizes = all}, stored.values, plan.layer + ".weight", "gather");
  const Id numbers = graph_.add("DequantizeLinear", {table, one, zero}, {}, writer_.float_type(all));
  const Id rows = graph_.add("Gather", {numbers, ids}, {{"axis", std::int64_t{0}}}, writer_.float_type(shape));
  const Id integers = graph_.add("QuantizeLinear", {rows, one, zero}, {}, {.dtype = dtype, .sizes = shape});
  const Id row_numbers = graph_.add("DequantizeLinear", {integers, one, zero}, {}, writer_.float_type(shape));
  Id scales = external({.dtype = OnnxDtype::kFloat, .sizes = {plan.rows, 1}}, stored.scales, plan.layer + ".scale");
  if (arithmetic_ != OnnxDtype::kFloat) {
    scales = graph_.add("Cast", {scales}, {{"to", static_cast<std::int64_t>(arithmetic_)}},
                        writer_.float_type({plan.rows, 1}));
  }
  const Id row_scales =
      graph_.add("Gather", {scales, ids}, {{"axis", std::int64_t{0}}}, writer_.float_type({count, 1}));
  return graph_.add("Mul", {row_numbers, row_scales}, {}, writer_.float_type(shape), "embedding");
}

Value WeightOperators::multiply(const LayerPlan& plan, const Value& x, const ActivationRange& range, bool is_head) {
  const OnnxType type = writer_.float_type({writer_.sizes(x.id)[0], plan.rows});
  const OnnxGraph::Attributes transposed = {{"transB", std::int64_t{1}}};
  if (!plan.format.is_quantized()) {
    const Id weight = float_matrix(plan, float_name());
    const Id raw = graph_.add("Gemm", {x.id, weight}, transposed, type, plan.layer);
    return is_head ? Value{.id = raw, .range = range} : writer_.finish(raw, range);
  }
  if (bits_) {
    const Id weight = dequantized_matrix(plan, *bits_);
    return writer_.finish(graph_.add("Gemm", {x.id, weight}, transposed, type, plan.layer), range);
  }
  return multiply_blocks(plan, x);
}

Id WeightOperators::dequantized_matrix(const LayerPlan& plan, int bits) {
  const StoredMatrix stored = result_.data.add_matrix(plan, Packing::kSigned);
  const bool is_int4 = plan.format.bits() == 4;
  const bool in_groups = plan.format.granularity == Granularity::kGroup;
  note_layer(plan, "int" + std::to_string(bits) + (is_int4 ? " x int4" : " x int8"), stored);
  result_.has_blocks = result_.has_blocks || in_groups;
  const OnnxDtype dtype = is_int4 ? OnnxDtype::kInt4 : OnnxDtype::kInt8;
  const Sizes shape = {plan.rows, plan.columns};
  const Sizes scale_shape = in_groups ? Sizes{plan.rows, stored.scales_per_row} : Sizes{plan.rows};
  const Id values = external({.dtype = dtype, .sizes = shape}, stored.values, plan.layer + ".weight");
  const Id scales = external({.dtype = OnnxDtype::kFloat, .sizes = scale_shape}, stored.scales, plan.layer + ".scale");
  // Without zero points the compiler takes INT4 of one scale for each row wrongly, and says nothing.
  const Id zeros = zero_points(dtype, scale_shape, plan.layer + ".zero");
  OnnxGraph::Attributes attributes = {{"axis", std::int64_t{in_groups ? 1 : 0}}};
  if (in_groups) {
    attributes.emplace_back("block_size", plan.format.group_size);
  }
  return graph_.add("DequantizeLinear", {values, scales, zeros}, std::move(attributes), writer_.float_type(shape));
}

// Floating-point activations: the one operator with integer weights that the compiler takes beside them, and that
// only with three dimensions.
Value WeightOperators::multiply_blocks(const LayerPlan& plan, const Value& x) {
  const StoredMatrix stored = result_.data.add_matrix(plan, Packing::kBlocks);
  const bool is_int4 = plan.format.bits() == 4;
  result_.dynamic_as_weight_only = result_.dynamic_as_weight_only || config_.mode == QuantizationMode::DYNAMIC;
  note_layer(plan, float_name() + (is_int4 ? " x int4" : " x int8"), stored);
  const std::int64_t bits = is_int4 ? 4 : 8;
  const Id values =
      external({.dtype = OnnxDtype::kUint8, .sizes = {plan.rows, stored.scales_per_row, stored.block_size * bits / 8}},
               stored.values, plan.layer + ".weight");
  const Id scales = external({.dtype = OnnxDtype::kFloat, .sizes = {plan.rows, stored.scales_per_row}}, stored.scales,
                             plan.layer + ".scale");
  const std::int64_t count = writer_.sizes(x.id)[0];
  const Value batch = writer_.reshape(x, {1, count, plan.columns});
  const Id raw = graph_.add("MatMulNBits", {batch.id, values, scales},
                            {{"K", plan.columns}, {"N", plan.rows}, {"bits", bits}, {"block_size", stored.block_size}},
                            writer_.float_type({1, count, plan.rows}), plan.layer, kContrib);
  return writer_.reshape({.id = raw, .range = {}}, {count, plan.rows});
}

std::vector<float> WeightOperators::vector(const LayerPlan& plan) {
  std::vector<float> values = load_tensor(*model_.checkpoint, plan.tensor);
  const ActivationRange range = range_of(values);
  if (!std::isfinite(range.min) || !std::isfinite(range.max) ||
      std::ranges::any_of(values, [](float value) { return std::isnan(value); })) {
    throw Error(ErrorCode::kBadFile, plan.tensor, "has a value that is not finite", "the model's weights are broken");
  }
  LayerPlan stored = plan;
  stored.format = float_format(ElementType::kF32);
  const int float_bytes = arithmetic_ == OnnxDtype::kFloat16 ? 2 : 4;
  const int element_bytes = bits_ ? *bits_ / 8 : float_bytes;
  result_.layers.push_back({.plan = stored, .kernel = "", .stored_bytes = plan.columns * element_bytes});
  return values;
}

}  // namespace diffulex_edge::qnn
