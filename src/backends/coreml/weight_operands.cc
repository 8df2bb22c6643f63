#include "backends/coreml/weight_operands.h"

#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "backends/coreml/stored_forms.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge::coreml {
void WeightOperands::note_layer(LayerPlan plan, std::string kernel, std::int64_t bytes) {
  if (!plan.format.is_quantized()) {
    const bool half = arithmetic() == MilDtype::kFloat16 || plan.format.element == ElementType::kF16;
    plan.format = float_format(half ? ElementType::kF16 : ElementType::kF32);
  }
  part_.layers.push_back({.plan = std::move(plan), .kernel = std::move(kernel), .stored_bytes = bytes});
}

// A norm's weight or a bias.
Id WeightOperands::vector(const LayerPlan& plan) {
  bool is_new = false;
  const BlobReference blob = part_.weights.add_vector(plan, is_new);
  const std::int64_t bytes = plan.columns * (arithmetic() == MilDtype::kFloat16 ? 2 : 4);
  LayerPlan stored = plan;
  stored.format = float_format(ElementType::kF32);
  note_layer(std::move(stored), "", is_new ? bytes : 0);
  return function().constant(blob_literal(arithmetic(), std::vector{plan.columns}, blob), plan.layer + "_vector");
}

// A matrix in the arithmetic's type, from whatever form it is stored in; equal ones are made once.
Id WeightOperands::matrix(const LayerPlan& plan, const std::string& user) {
  const StoredMatrix stored = part_.weights.add_matrix(plan);
  note_layer(plan, user + " x " + std::string(stored_form(stored.format.element).name),
             stored.is_new ? stored.bytes : 0);
  const auto [position, inserted] = matrices_.emplace(std::pair(stored.values.file, stored.values.offset), 0);
  if (inserted) {
    position->second = make_matrix(plan, stored);
  }
  return position->second;
}

Id WeightOperands::make_matrix(const LayerPlan& plan, const StoredMatrix& stored) {
  const std::vector<std::int64_t> sizes = {plan.rows, plan.columns};
  const MilType type{.dtype = arithmetic(), .shape = static_shape(sizes)};
  const std::string name = plan.layer + "_weight";
  if (const std::optional<Refusal> reason = refusal(stored.format, *settings_.target)) {
    throw Error(ErrorCode::kUnsupported, plan.layer, reason->why, reason->advice);
  }
  if (stored.format.has_codebook()) {
    return palette_matrix(plan, stored, type, name);
  }
  if (stored.format.is_grid()) {
    return scaled_matrix(plan, stored, type, name);
  }
  const MilDtype element = stored_form(stored.format.element).type;
  MilLiteral literal = blob_literal(element, sizes, stored.values);
  if (element == arithmetic()) {
    return function().constant(std::move(literal), name);
  }
  return function().add_constexpr("constexpr_cast",
                                  {{"source_val", std::move(literal)}, {"output_dtype", string_literal("fp32")}}, true,
                                  type, name);
}

Id WeightOperands::scaled_matrix(const LayerPlan& plan, const StoredMatrix& stored, const MilType& type,
                                 const std::string& name) {
  const std::vector<std::int64_t> sizes = {plan.rows, plan.columns};
  if (settings_.target->release >= kBlockwiseRelease) {
    const MilDtype element = stored_form(stored.format.element).type;
    const std::vector<std::int64_t> scales = {plan.rows, stored.scales_per_row};
    return function().add_constexpr("constexpr_blockwise_shift_scale",
                                    {{"data", blob_literal(element, sizes, stored.values)},
                                     {"scale", blob_literal(arithmetic(), scales, stored.scales)}},
                                    false, type, name);
  }
  const std::vector<std::int64_t> scales = {plan.rows};
  return function().add_constexpr("constexpr_affine_dequantize",
                                  {{"quantized_data", blob_literal(MilDtype::kInt8, sizes, stored.values)},
                                   {"zero_point", int8_literal(0)},
                                   {"scale", blob_literal(arithmetic(), scales, stored.scales)},
                                   {"axis", int_literal(0)}},
                                  true, type, name);
}

Id WeightOperands::palette_matrix(const LayerPlan& plan, const StoredMatrix& stored, const MilType& type,
                                  const std::string& name) {
  const std::vector<std::int64_t> sizes = {plan.rows, plan.columns};
  const std::int64_t values = stored.format.table_size();
  if (settings_.weights.has_sub_bytes) {
    const std::vector<std::int64_t> table = {stored.tables_count, 1, values, 1};
    return function().add_constexpr(
        "constexpr_lut_to_dense",
        {{"indices", blob_literal(stored_form(stored.format.element).type, sizes, stored.values)},
         {"lut", blob_literal(arithmetic(), table, stored.tables)}},
        false, type, name);
  }
  const std::vector<std::int64_t> bytes = {plan.rows * stored.format.row_bytes(plan.columns)};
  const std::vector<std::int64_t> table = {values};
  return function().add_constexpr("constexpr_lut_to_dense",
                                  {{"indices", blob_literal(MilDtype::kUint8, bytes, stored.values)},
                                   {"lut", blob_literal(arithmetic(), table, stored.tables)},
                                   {"shape", uint32s_literal(sizes)}},
                                  true, type, name);
}

}  // namespace diffulex_edge::coreml
