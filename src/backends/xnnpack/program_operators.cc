#include "backends/xnnpack/program_operators.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "diffulex_edge/error.h"

namespace diffulex_edge::xnnpack {
namespace {

using executorch::schema::ScalarType;

ScalarType integer_type(const Node& input) { return input.dtype == DType::kI32 ? ScalarType::INT : ScalarType::LONG; }

}  // namespace

void look_up(executorch::ProgramBuilder& program, std::int32_t table, std::int32_t ids, std::int32_t output) {
  program.kernel_call(
      "aten::embedding", "out",
      {table, ids, program.integer(-1), program.boolean(false), program.boolean(false), output, output});
}

void check_ids(executorch::ProgramBuilder& program, std::int32_t ids, const Shape& shape, std::int64_t rows,
               executorch::ConstantIndex constant) {
  Shape nothing = shape;
  nothing.back() = {.value = 0};
  const auto table = program.constant_tensor(ScalarType::FLOAT, {rows, 0}, constant, {});
  look_up(program, table, ids, program.planned_tensor(ScalarType::FLOAT, nothing));
}

void ProgramOperators::input(ValueId value) {
  const Node& current = values_.node(value);
  const bool is_float = current.dtype == DType::kF32;
  const auto tensor =
      values_.program().planned_tensor(is_float ? ScalarType::FLOAT : integer_type(current), current.shape);
  values_.program().set_input(tensor);
  inputs_.emplace(value, tensor);
  if (is_float && values_.is_used(value)) {
    values_.delegate_input(value, tensor, DType::kF32);
    values_.mapped(value).flow = values_.compute();
  }
}

void ProgramOperators::embedding(ValueId value) {
  const Node& current = values_.node(value);
  const LayerPlan& plan = values_.layer_plan(current, current.inputs[0]);
  if (!plan.format.fills_bytes(plan.columns)) {
    throw Error(ErrorCode::kUnsupported, plan.layer, "an INT4 embedding needs an even width");
  }
  const StoredParts parts = values_.result().weights.add_embedding(plan);
  const auto ids = inputs_.at(current.inputs[1]);
  const bool half = plan.format.element == ElementType::kF16;
  const auto output = values_.program().planned_tensor(half ? ScalarType::HALF : ScalarType::FLOAT, current.shape);
  std::string kernel;
  if (plan.format.is_quantized()) {
    kernel = quantized_embedding(plan, parts, ids, current.shape, output);
  } else {
    kernel = "aten::embedding";
    const auto table = values_.program().constant_tensor(
        half ? ScalarType::HALF : ScalarType::FLOAT, {plan.rows, plan.columns},
        values_.program_constant(parts.values_segment, 0), values_.segment_name(parts.values_segment));
    look_up(values_.program(), table, ids, output);
  }
  values_.note_layer(plan, kernel, parts.is_new ? parts.values_bytes + parts.scales_bytes : 0);
  values_.delegate_input(value, output, half ? DType::kF16 : DType::kF32);
  values_.mapped(value).flow = values_.compute();
}

std::string ProgramOperators::quantized_embedding(const LayerPlan& plan, const StoredParts& parts, std::int32_t ids,
                                                  const Shape& shape, std::int32_t output) {
  const bool packed = plan.format.bits() == 4;
  const auto constant = values_.program_constant(parts.values_segment, 0);
  check_ids(values_.program(), ids, shape, plan.rows, constant);  // the kernels of quantized embeddings do not
  const auto table = values_.program().constant_tensor(packed ? ScalarType::BYTE : ScalarType::CHAR,
                                                       {plan.rows, packed ? plan.columns / 2 : plan.columns}, constant,
                                                       values_.segment_name(parts.values_segment));
  std::vector<std::int64_t> scale_sizes = {plan.rows};
  if (plan.format.granularity == Granularity::kGroup) {
    scale_sizes.push_back(plan.format.scales_per_row(plan.columns));
  }
  const auto scales = values_.program().constant_tensor(
      ScalarType::FLOAT, scale_sizes, values_.program_constant(parts.values_segment, parts.scales_offset),
      values_.segment_name(parts.values_segment) + ":scale");
  const std::string kernel = packed ? "quantized_decomposed::embedding_4bit" : "quantized_decomposed::embedding_byte";
  values_.program().kernel_call(kernel, "out",
                                {table, scales, values_.program().null(), values_.program().integer(packed ? -8 : -128),
                                 values_.program().integer(packed ? 7 : 127), ids, output, output});
  return kernel;
}

std::int32_t ProgramOperators::length_of(ValueId input) {
  if (length_) {
    return *length_;
  }
  const Shape& shape = values_.node(input).shape;
  const auto axis = std::ranges::find_if(shape, &Dim::is_sequence) - shape.begin();
  const auto length = values_.program().integer(0);
  values_.program().kernel_call("aten::sym_size", "int", {inputs_.at(input), values_.program().integer(axis), length});
  length_ = length;
  return length;
}

void ProgramOperators::positions(ValueId value) {
  const auto length = length_of(values_.node(value).inputs[0]);
  const auto tensor = values_.program().planned_tensor(ScalarType::FLOAT, values_.node(value).shape);
  values_.program().kernel_call("aten::arange", "out", {length, tensor, tensor});
  values_.delegate_input(value, tensor, DType::kF32);
}

void ProgramOperators::position_table(ValueId value) {
  const Node& current = values_.node(value);
  const auto length = length_of(current.inputs[0]);
  const Node& source = values_.node(current.inputs[1]);
  const auto& values = std::get<ConstantAttributes>(source.attributes).values;
  const std::uint32_t segment = values_.computed_segment(values, DType::kF32);
  const auto table =
      values_.program().constant_tensor(ScalarType::FLOAT, sizes_at(source.shape, 0),
                                        values_.program_constant(segment, 0), values_.segment_name(segment));
  const auto tensor = values_.program().planned_tensor(ScalarType::FLOAT, current.shape);
  values_.program().kernel_call("aten::slice_copy", "Tensor_out",
                                {table, values_.program().integer(0), values_.program().integer(0), length,
                                 values_.program().integer(1), tensor, tensor});
  values_.delegate_input(value, tensor, DType::kF32);
}

}  // namespace diffulex_edge::xnnpack
