// Linear layers, tables and matrix products.

#include <algorithm>
#include <cmath>
#include <string>

#include "core/linear_algebra.h"
#include "core/parallel.h"
#include "diffulex_edge/error.h"
#include "runtime/operators/operators.h"
#include "runtime/operators/strides.h"

namespace diffulex_edge::operators {
namespace {

constexpr std::int64_t kTileRows = 128;  // of a product, that one thread takes

void linear(const OperatorContext& context, ValueId id, Activations& result) {
  const Node& node = context.node(id);
  const Activations& x = context.value(node.inputs[0]);
  const std::int64_t columns = context.node(node.inputs[1]).shape[1].value;
  context.layers.run(node, x.data, result.data, static_cast<std::int64_t>(x.data.size()) / columns, context.control);
}

// The row of a table that an id means.
std::int64_t checked_row(const OperatorContext& context, const Node& node, float id) {
  const std::int64_t rows = context.node(node.inputs[0]).shape[0].value;
  const bool is_row = id >= 0.0F && id < static_cast<float>(rows);  // not of a NaN
  if (!is_row) {
    throw Error(ErrorCode::kInvalidArgument, node.name.empty() ? std::string(to_string(node.op)) : node.name,
                "id " + std::to_string(std::llround(id)) + " is not in its table of " + std::to_string(rows));
  }
  return std::llround(id);
}

void stored_table(const OperatorContext& context, ValueId id, Activations& result) {
  const Node& node = context.node(id);
  const std::string& tensor = context.plan.graph().tensor(node.inputs[0]);
  const Activations& ids = context.value(node.inputs[1]);
  const std::int64_t width = node.shape.back().value;
  for_each_row(static_cast<std::int64_t>(ids.data.size()), width, context.control, [&](std::int64_t row) {
    context.layers.load_weight(node, tensor, checked_row(context, node, ids.data[static_cast<std::size_t>(row)]), 1,
                               {result.data.data() + row * width, static_cast<std::size_t>(width)});
  });
}

void computed_table(const OperatorContext& context, ValueId id, Activations& result) {
  const Node& node = context.node(id);
  const Tensors table(context, node.inputs[0]);
  const Tensors ids(context, node.inputs[1]);
  const Tensors target(context, id);
  const std::int64_t width = node.shape.back().value;
  for (std::size_t sequence = 0; sequence < target.count(); ++sequence) {
    const float* from = context.value(node.inputs[0]).data.data() + table.begin(sequence);
    const float* row = context.value(node.inputs[1]).data.data() + ids.begin(sequence);
    float* to = result.data.data() + target.begin(sequence);
    for_each_row(Rows(target.sizes(sequence)).count(), width, context.control, [&](std::int64_t i) {
      std::copy_n(from + checked_row(context, node, row[i]) * width, width, to + i * width);
    });
  }
}

void mat_mul(const OperatorContext& context, ValueId id, Activations& result) {
  const Node& node = context.node(id);
  const bool transpose_b = std::get<MatMulAttributes>(node.attributes).transpose_b;
  const Tensors left(context, node.inputs[0]);
  const Tensors right(context, node.inputs[1]);
  const Tensors target(context, id);
  for (std::size_t sequence = 0; sequence < target.count(); ++sequence) {
    const std::vector<std::int64_t> target_sizes = target.sizes(sequence);
    const std::vector<std::int64_t> left_sizes = left.sizes(sequence);
    const std::int64_t m = target_sizes[target_sizes.size() - 2];
    const std::int64_t n = target_sizes.back();
    const std::int64_t k = left_sizes.back();
    // Of the matrices' dimensions, those of the batch are left: the last one of what is passed is not read.
    const Rows matrices(std::vector<std::int64_t>(target_sizes.begin(), target_sizes.end() - 1));
    const std::vector<std::int64_t> a_strides = broadcast_strides(left_sizes, target_sizes);
    const std::vector<std::int64_t> b_strides = broadcast_strides(right.sizes(sequence), target_sizes);
    const float* a = context.value(node.inputs[0]).data.data() + left.begin(sequence);
    const float* b = context.value(node.inputs[1]).data.data() + right.begin(sequence);
    float* c = result.data.data() + target.begin(sequence);
    const std::int64_t tiles = (m + kTileRows - 1) / kTileRows;
    parallel_for(static_cast<std::size_t>(matrices.count() * tiles), context.control,
                 [&](std::size_t item, std::size_t) {
                   const std::int64_t matrix = static_cast<std::int64_t>(item) / tiles;
                   const std::int64_t row = static_cast<std::int64_t>(item) % tiles * kTileRows;
                   const Gemm gemm{.m = std::min(kTileRows, m - row), .n = n, .k = k};
                   const float* x = a + matrices.offset(matrix, a_strides) + row * k;
                   const float* y = b + matrices.offset(matrix, b_strides);
                   float* z = c + (matrix * m + row) * n;
                   if (transpose_b) {
                     multiply_transposed(gemm, x, k, y, k, z, n);
                   } else {
                     multiply(gemm, x, k, y, n, z, n);
                   }
                 });
  }
}

}  // namespace

Kernel matrix_kernel(const ExecutionPlan& plan, ValueId id) {
  const Node& node = plan.graph().node(id);
  switch (node.op) {
    case Op::kLinear:
      return {"linear", linear};
    case Op::kEmbedding:
    case Op::kGather:
      return plan.graph().node(node.inputs[0]).op == Op::kWeight ? Kernel{"stored table", stored_table}
                                                                 : Kernel{"computed table", computed_table};
    case Op::kMatMul:
      return {"matrix product", mat_mul};
    default:
      throw Error(ErrorCode::kInternal, std::string(to_string(node.op)), "has no kernel of matrices");
  }
}

}  // namespace diffulex_edge::operators
