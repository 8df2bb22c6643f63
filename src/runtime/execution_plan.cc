#include "runtime/execution_plan.h"

#include <algorithm>

#include "diffulex_edge/error.h"
#include "runtime/operators/operators.h"

namespace diffulex_edge {
namespace {

// Integers up to here are exact in float32: ids are kept as such.
constexpr std::int64_t kMostRows = std::int64_t{1} << 24U;

bool has_sequence(std::span<const Dim> dims) { return std::ranges::any_of(dims, &Dim::is_sequence); }

bool is_token_major(const Shape& shape) {
  const auto dims = without_leading_ones(shape);
  return !dims.empty() && dims.front().is_sequence && !has_sequence(dims.subspan(1));
}

std::int64_t width_of_tokens(const Shape& shape) {
  std::int64_t width = 1;
  for (const Dim& dim : shape) {
    width *= dim.is_sequence ? 1 : dim.value;
  }
  return width;
}

}  // namespace

std::span<const Dim> without_leading_ones(std::span<const Dim> dims) {
  const auto first = std::ranges::find_if(dims, [](const Dim& dim) { return dim.is_sequence || dim.value != 1; });
  return {first, dims.end()};
}

bool reads_weight(const Node& user, std::size_t input) {
  switch (user.op) {
    case Op::kLinear:
    case Op::kRmsNorm:
    case Op::kLayerNorm:
      return input > 0;
    case Op::kEmbedding:
    case Op::kGather:
      return input == 0;
    case Op::kRoute:
      return input == 1;
    default:
      return false;
  }
}

ExecutionPlan::ExecutionPlan(const Graph& graph) : graph_(graph), values_(graph.nodes().size()) {
  find_layouts();
  find_uses();
  find_head();
  for (std::size_t i = 0; i < values_.size(); ++i) {
    if (needs_step(i)) {
      add_step(i);
    }
  }
}

void ExecutionPlan::find_layouts() {
  for (std::size_t i = 0; i < values_.size(); ++i) {
    const Node& node = graph_.nodes()[i];
    const bool varies =
        node.op == Op::kInput || std::ranges::any_of(node.inputs, [&](ValueId input) { return !is_shared(input); });
    if (varies) {
      values_[i].layout = is_token_major(node.shape) ? Layout::kTokens : Layout::kSequences;
      find_route(i);
    }
    if ((node.op == Op::kEmbedding || node.op == Op::kGather) && graph_.shape(node.inputs[0])[0].value > kMostRows) {
      throw Error(ErrorCode::kUnsupported, node.name.empty() ? std::string(to_string(node.op)) : node.name,
                  "a table of more than " + std::to_string(kMostRows) + " rows is too large for the CPU runtime");
    }
  }
}

// Between kDispatch and kCombine, operators take rows by themselves.
void ExecutionPlan::find_route(std::size_t index) {
  const Node& node = graph_.nodes()[index];
  Value& value = values_[index];
  if (node.op == Op::kDispatch) {
    value.layout = Layout::kRouted;
    value.route = static_cast<ValueId>(index);
    return;
  }
  for (const ValueId input : node.inputs) {
    const ValueId other = route(input);
    if (other < 0 || node.op == Op::kCombine) {
      continue;
    }
    const bool takes_rows = node.op == Op::kLinear || node.op == Op::kSwiGlu;
    if (!takes_rows || (value.route >= 0 && value.route != other)) {
      throw Error(ErrorCode::kInternal, std::string(to_string(node.op)), "can't stand between dispatch and combine");
    }
    value.layout = Layout::kRouted;
    value.route = other;
  }
}

void ExecutionPlan::find_uses() {
  for (std::size_t i = 0; i < values_.size(); ++i) {
    const Node& node = graph_.nodes()[i];
    for (std::size_t k = 0; k < node.inputs.size(); ++k) {
      const auto input = static_cast<std::size_t>(node.inputs[k]);
      values_[input].last_use = i;
      const Op op = graph_.nodes()[input].op;
      const bool is_known = op == Op::kBlockCausalMask && node.op == Op::kAttention;  // by its block length
      values_[input].is_used = values_[input].is_used || !is_known;
      if (op == Op::kWeight && !reads_weight(node, k) &&
          std::ranges::find(loaded_weights_, node.inputs[k]) == loaded_weights_.end()) {
        loaded_weights_.push_back(node.inputs[k]);
      }
    }
  }
}

void ExecutionPlan::find_head() {
  const auto output = static_cast<std::size_t>(graph_.output());
  const Node& node = graph_.nodes()[output];
  if (node.op == Op::kLinear && !values_[output].is_used && is_token_major(node.shape) &&
      is_token_major(graph_.shape(node.inputs[0])) && without_leading_ones(node.shape).size() == 2) {
    head_ = graph_.output();
  }
}

bool ExecutionPlan::needs_step(std::size_t index) const {
  switch (graph_.nodes()[index].op) {
    case Op::kInput:
    case Op::kWeight:
    case Op::kConstant:
      return false;
    case Op::kBlockCausalMask:
      return values_[index].is_used || static_cast<ValueId>(index) == graph_.output();
    default:
      return static_cast<ValueId>(index) != head_;
  }
}

void ExecutionPlan::add_step(std::size_t index) {
  const Node& node = graph_.nodes()[index];
  Value& value = values_[index];
  value.is_made = true;
  Step step{.value = static_cast<ValueId>(index), .kernel = find_kernel(*this, static_cast<ValueId>(index))};
  const auto dies = [&](ValueId input) {
    const Value& source = values_[static_cast<std::size_t>(input)];
    return source.is_made && source.last_use == index && input != graph_.output();
  };
  if (node.op == Op::kReshape && dies(node.inputs[0])) {
    step.taken_input = 0;
  } else if (node.op == Op::kCombine && node.inputs.size() == 3 && dies(node.inputs[2])) {
    step.taken_input = 2;
  }
  const ValueId taken = step.taken_input < 0 ? -1 : node.inputs[static_cast<std::size_t>(step.taken_input)];
  value.buffer = taken >= 0 ? values_[static_cast<std::size_t>(taken)].buffer : take_buffer(element_count(node.shape));
  for (const ValueId input : node.inputs) {
    if (dies(input) && std::ranges::find(step.last_uses, input) == step.last_uses.end()) {
      step.last_uses.push_back(input);
      if (input != taken) {
        free_buffers_.push_back(values_[static_cast<std::size_t>(input)].buffer);
      }
    }
  }
  steps_.push_back(std::move(step));
}

// The smallest free buffer that is large enough, or else the largest, which grows.
int ExecutionPlan::take_buffer(std::int64_t size) {
  const auto size_of = [&](int buffer) { return buffer_sizes_[static_cast<std::size_t>(buffer)]; };
  const auto is_better = [&](int a, int b) {
    const bool fits_a = size_of(a) >= size;
    const bool fits_b = size_of(b) >= size;
    if (fits_a != fits_b) {
      return fits_a;
    }
    return fits_a ? size_of(a) < size_of(b) : size_of(a) > size_of(b);
  };
  const auto best = std::ranges::min_element(free_buffers_, is_better);
  if (best == free_buffers_.end()) {
    buffer_sizes_.push_back(size);
    return static_cast<int>(buffer_sizes_.size()) - 1;
  }
  const int buffer = *best;
  free_buffers_.erase(best);
  auto& known = buffer_sizes_[static_cast<std::size_t>(buffer)];
  known = std::max(known, size);
  return buffer;
}

std::int64_t ExecutionPlan::elements(ValueId value, std::int64_t length) const {
  std::int64_t count = 1;
  for (const Dim& dim : graph_.shape(value)) {
    count *= dim.is_sequence ? length : dim.value;
  }
  return count;
}

void ExecutionPlan::set_size(ValueId value, const Batch& batch, Activations& result) const {
  const Shape& shape = graph_.shape(value);
  switch (layout(value)) {
    case Layout::kShared:
      result.rows = 1;
      result.width = elements(value, 0);
      break;
    case Layout::kTokens:
      result.rows = batch.tokens();
      result.width = width_of_tokens(shape);
      break;
    case Layout::kRouted:
      result.width = width_of_tokens(shape);
      break;
    case Layout::kSequences:
      result.width = shape.empty() || shape.back().is_sequence ? 1 : shape.back().value;
      result.rows = begins(value, batch).back() / std::max<std::int64_t>(result.width, 1);
      break;
  }
}

std::vector<std::int64_t> ExecutionPlan::begins(ValueId value, const Batch& batch) const {
  std::vector<std::int64_t> result(batch.sequences() + 1, 0);
  for (std::size_t i = 0; !is_shared(value) && i < batch.sequences(); ++i) {
    result[i + 1] = result[i] + elements(value, batch.length(i));
  }
  return result;
}

}  // namespace diffulex_edge
