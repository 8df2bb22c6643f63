// The four operators of two operands. Most of a model's are sums of whole rows; the rest follow NumPy's broadcasting.

#include <algorithm>

#include "diffulex_edge/error.h"
#include "runtime/kernels/activation_kernels.h"
#include "runtime/operators/operators.h"
#include "runtime/operators/strides.h"

namespace diffulex_edge::operators {
namespace {

using Layout = ExecutionPlan::Layout;

// How an operand meets a row of the result.
enum class Part {
  kRow,      // a row of its own for each row
  kOneRow,   // one row for all
  kElement,  // an element for each row
  kOneElement,
  kNone,  // in none of these ways
};

bool are_equal(std::span<const Dim> a, std::span<const Dim> b) { return std::ranges::equal(a, b); }

bool are_ones(std::span<const Dim> dims) {
  return std::ranges::all_of(dims, [](const Dim& dim) { return !dim.is_sequence && dim.value == 1; });
}

Part part_of(const ExecutionPlan& plan, ValueId operand, ValueId result) {
  const auto dims = without_leading_ones(plan.graph().shape(result));
  const auto own = without_leading_ones(plan.graph().shape(operand));
  const bool is_tokens = plan.layout(result) == Layout::kTokens;
  if (plan.layout(result) == Layout::kShared) {
    return Part::kNone;
  }
  if (plan.is_shared(operand)) {
    if (own.empty()) {
      return Part::kOneElement;
    }
    // A row of tokens is what follows the sequence; any other row is the last dimension.
    const auto row = without_leading_ones(dims.last(is_tokens ? dims.size() - 1 : 1));
    return std::ranges::none_of(row, &Dim::is_sequence) && are_equal(own, row) ? Part::kOneRow : Part::kNone;
  }
  if (are_equal(own, dims)) {
    return Part::kRow;
  }
  const std::size_t leading = is_tokens ? 1 : dims.size() - 1;
  const bool has_rows = own.size() == dims.size() && (is_tokens || !dims.back().is_sequence);
  return has_rows && are_equal(own.first(leading), dims.first(leading)) && are_ones(own.subspan(leading))
             ? Part::kElement
             : Part::kNone;
}

template <typename Function>
void combine_rows(const OperatorContext& context, ValueId id, Activations& result, const Function& function) {
  const Node& node = context.node(id);
  struct Operand {
    const float* data;
    std::int64_t row;      // elements from one row to the next
    std::int64_t element;  // from one element to the next
  };
  const auto operand_of = [&](std::size_t index) -> Operand {
    const float* data = context.value(node.inputs[index]).data.data();
    switch (part_of(context.plan, node.inputs[index], id)) {
      case Part::kRow:
        return {data, result.width, 1};
      case Part::kOneRow:
        return {data, 0, 1};
      case Part::kElement:
        return {data, 1, 0};
      default:
        return {data, 0, 0};
    }
  };
  const Operand a = operand_of(0);
  const Operand b = operand_of(1);
  for_each_row(result.rows, result.width, context.control, [&](std::int64_t row) {
    const float* left = a.data + row * a.row;
    const float* right = b.data + row * b.row;
    float* target = result.data.data() + row * result.width;
    for (std::int64_t i = 0; i < result.width; ++i) {
      target[i] = function(left[i * a.element], right[i * b.element]);
    }
  });
}

template <typename Function>
void combine_broadcast(const OperatorContext& context, ValueId id, Activations& result, const Function& function) {
  const Node& node = context.node(id);
  const Tensors target(context, id);
  const Tensors a(context, node.inputs[0]);
  const Tensors b(context, node.inputs[1]);
  for (std::size_t sequence = 0; sequence < target.count(); ++sequence) {
    const std::vector<std::int64_t> sizes = target.sizes(sequence);
    const std::vector<std::int64_t> left = broadcast_strides(a.sizes(sequence), sizes);
    const std::vector<std::int64_t> right = broadcast_strides(b.sizes(sequence), sizes);
    const float* x = context.value(node.inputs[0]).data.data() + a.begin(sequence);
    const float* y = context.value(node.inputs[1]).data.data() + b.begin(sequence);
    float* made = result.data.data() + target.begin(sequence);
    const Rows rows(sizes);
    for_each_row(rows.count(), rows.width(), context.control, [&](std::int64_t row) {
      const float* from_x = x + rows.offset(row, left);
      const float* from_y = y + rows.offset(row, right);
      float* to = made + row * rows.width();
      for (std::int64_t i = 0; i < rows.width(); ++i) {
        to[i] = function(from_x[i * Rows::step(left)], from_y[i * Rows::step(right)]);
      }
    });
  }
}

struct Sum {
  float operator()(float x, float y) const { return x + y; }
};
struct Difference {
  float operator()(float x, float y) const { return x - y; }
};
struct Product {
  float operator()(float x, float y) const { return x * y; }
};
struct Quotient {
  float operator()(float x, float y) const { return x / y; }
};

template <typename Function>
void rows(const OperatorContext& context, ValueId id, Activations& result) {
  combine_rows(context, id, result, Function());
}
template <typename Function>
void broadcast(const OperatorContext& context, ValueId id, Activations& result) {
  combine_broadcast(context, id, result, Function());
}

void sum_rows(const OperatorContext& context, ValueId id, Activations& result) {
  const Node& node = context.node(id);
  const float* a = context.value(node.inputs[0]).data.data();
  const float* b = context.value(node.inputs[1]).data.data();
  const bool has_rows_a = part_of(context.plan, node.inputs[0], id) == Part::kRow;
  const bool has_rows_b = part_of(context.plan, node.inputs[1], id) == Part::kRow;
  for_each_row(result.rows, result.width, context.control, [&](std::int64_t row) {
    const std::int64_t at = row * result.width;
    kernels::add_rows(a + (has_rows_a ? at : 0), b + (has_rows_b ? at : 0), result.data.data() + at,
                      static_cast<std::size_t>(result.width));
  });
}

template <typename Function>
Kernel kernel_of(bool by_rows) {
  return by_rows ? Kernel{"rows", rows<Function>} : Kernel{"broadcast", broadcast<Function>};
}

}  // namespace

Kernel pair_kernel(const ExecutionPlan& plan, ValueId id) {
  const Node& node = plan.graph().node(id);
  const Part a = part_of(plan, node.inputs[0], id);
  const Part b = part_of(plan, node.inputs[1], id);
  const auto is_row = [](Part part) { return part == Part::kRow || part == Part::kOneRow; };
  const bool by_rows = !plan.is_shared(id) && a != Part::kNone && b != Part::kNone;
  switch (node.op) {
    case Op::kAdd:
      return by_rows && is_row(a) && is_row(b) ? Kernel{"add rows", sum_rows} : kernel_of<Sum>(by_rows);
    case Op::kSubtract:
      return kernel_of<Difference>(by_rows);
    case Op::kMultiply:
      return kernel_of<Product>(by_rows);
    case Op::kDivide:
      return kernel_of<Quotient>(by_rows);
    default:
      throw Error(ErrorCode::kInternal, std::string(to_string(node.op)), "has no kernel for two operands");
  }
}

}  // namespace diffulex_edge::operators
