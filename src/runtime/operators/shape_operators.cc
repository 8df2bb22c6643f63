// Operators that move elements without changing them, and those that make positions.

#include <algorithm>

#include "diffulex_edge/error.h"
#include "runtime/operators/operators.h"
#include "runtime/operators/strides.h"

namespace diffulex_edge::operators {
namespace {

// Elements of a dense tensor in another order: the first one, and the steps along each dimension of the result.
struct View {
  std::int64_t first = 0;
  std::vector<std::int64_t> strides;
};

void copy_view(const OperatorContext& context, ValueId id, Activations& result,
               const std::function<View(const std::vector<std::int64_t>& dense)>& view_of) {
  const ValueId input = context.node(id).inputs[0];
  const Tensors source(context, input);
  const Tensors target(context, id);
  for (std::size_t sequence = 0; sequence < target.count(); ++sequence) {
    const View view = view_of(dense_strides(source.sizes(sequence)));
    const float* from = context.value(input).data.data() + source.begin(sequence) + view.first;
    float* to = result.data.data() + target.begin(sequence);
    const Rows rows(target.sizes(sequence));
    const std::int64_t step = Rows::step(view.strides);
    for_each_row(rows.count(), rows.width(), context.control, [&](std::int64_t row) {
      const float* x = from + rows.offset(row, view.strides);
      float* y = to + row * rows.width();
      for (std::int64_t i = 0; i < rows.width(); ++i) {
        y[i] = x[i * step];
      }
    });
  }
}

void transpose(const OperatorContext& context, ValueId id, Activations& result) {
  const auto& axes = std::get<AxesAttributes>(context.node(id).attributes).axes;
  copy_view(context, id, result, [&](const std::vector<std::int64_t>& dense) {
    View view;
    for (const std::int64_t axis : axes) {
      view.strides.push_back(dense[static_cast<std::size_t>(axis)]);
    }
    return view;
  });
}

void slice(const OperatorContext& context, ValueId id, Activations& result) {
  const auto& range = std::get<SliceAttributes>(context.node(id).attributes);
  copy_view(context, id, result, [&](const std::vector<std::int64_t>& dense) {
    return View{.first = range.begin * dense[static_cast<std::size_t>(range.axis)], .strides = dense};
  });
}

void concat(const OperatorContext& context, ValueId id, Activations& result) {
  const Node& node = context.node(id);
  const auto axis = static_cast<std::size_t>(std::get<AxesAttributes>(node.attributes).axes[0]);
  const Tensors target(context, id);
  for (std::size_t sequence = 0; sequence < target.count(); ++sequence) {
    // Dimensions from the axis on are one run of elements, of which each operand gives a part.
    const std::vector<std::int64_t> sizes = target.sizes(sequence);
    const std::int64_t run = dense_strides(sizes)[axis] * sizes[axis];
    std::int64_t runs = 1;
    for (std::size_t i = 0; i < axis; ++i) {
      runs *= sizes[i];
    }
    std::int64_t begin = 0;
    for (const ValueId input : node.inputs) {
      const Tensors source(context, input);
      const std::vector<std::int64_t> own = source.sizes(sequence);
      const std::int64_t part = dense_strides(own)[axis] * own[axis];
      const float* from = context.value(input).data.data() + source.begin(sequence);
      float* to = result.data.data() + target.begin(sequence) + begin;
      for_each_row(runs, part, context.control,
                   [&](std::int64_t row) { std::copy_n(from + row * part, part, to + row * run); });
      begin += part;
    }
  }
}

// Only where the source is needed later: else the result is the source.
void reshape(const OperatorContext& context, ValueId id, Activations& result) {
  std::ranges::copy(context.value(context.node(id).inputs[0]).data, result.data.begin());
}

void positions(const OperatorContext& context, ValueId id, Activations& result) {
  const Tensors target(context, id);
  for (std::size_t sequence = 0; sequence < target.count(); ++sequence) {
    for (std::int64_t i = 0; i < target.sizes(sequence)[0]; ++i) {
      result.data[static_cast<std::size_t>(target.begin(sequence) + i)] =
          static_cast<float>(context.batch.position(sequence, i));
    }
  }
}

void position_table(const OperatorContext& context, ValueId id, Activations& result) {
  const Activations& table = context.value(context.node(id).inputs[1]);
  const Tensors target(context, id);
  for (std::size_t sequence = 0; sequence < target.count(); ++sequence) {
    const std::vector<std::int64_t> sizes = target.sizes(sequence);
    const std::int64_t width = dense_strides(sizes)[0];
    for (std::int64_t i = 0; i < sizes[0]; ++i) {
      std::copy_n(table.data.begin() + context.batch.position(sequence, i) * width, width,
                  result.data.begin() + target.begin(sequence) + i * width);
    }
  }
}

void block_causal_mask(const OperatorContext& context, ValueId id, Activations& result) {
  const Node& node = context.node(id);
  const std::int64_t block = std::get<BlockCausalMaskAttributes>(node.attributes).block_length;
  const Tensors source(context, node.inputs[0]);
  const Tensors target(context, id);
  for (std::size_t sequence = 0; sequence < target.count(); ++sequence) {
    const std::int64_t length = target.sizes(sequence)[0];
    const float* position = context.value(node.inputs[0]).data.data() + source.begin(sequence);
    const auto block_of = [&](std::int64_t i) { return static_cast<std::int64_t>(position[i]) / block; };
    float* mask = result.data.data() + target.begin(sequence);
    for (std::int64_t i = 0; i < length; ++i) {
      for (std::int64_t j = 0; j < length; ++j) {
        mask[i * length + j] = block_of(j) <= block_of(i) ? 0.0F : kMaskedScore;
      }
    }
  }
}

}  // namespace

Kernel shape_kernel(const Node& node) {
  switch (node.op) {
    case Op::kPositions:
      return {"positions", positions};
    case Op::kPositionTable:
      return {"position table", position_table};
    case Op::kBlockCausalMask:
      return {"block-causal mask", block_causal_mask};
    case Op::kReshape:
      return {"reshape", reshape};
    case Op::kTranspose:
      return {"transpose", transpose};
    case Op::kSlice:
      return {"slice", slice};
    case Op::kConcat:
      return {"concat", concat};
    default:
      throw Error(ErrorCode::kInternal, std::string(to_string(node.op)), "has no kernel that moves elements");
  }
}

}  // namespace diffulex_edge::operators
