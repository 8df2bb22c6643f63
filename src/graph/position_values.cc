#include "graph/position_values.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <utility>

namespace diffulex_edge {
namespace {

std::int64_t product(const std::vector<std::int64_t>& sizes, std::size_t begin = 0) {
  return std::accumulate(sizes.begin() + static_cast<std::ptrdiff_t>(begin), sizes.end(), std::int64_t{1},
                         std::multiplies<>());
}

// An element of a broadcast operand: `index` counts through the result.
std::size_t broadcast_index(std::int64_t index, const std::vector<std::int64_t>& result,
                            const std::vector<std::int64_t>& operand) {
  std::int64_t source = 0;
  std::int64_t stride = 1;
  for (std::size_t i = 0; i < result.size(); ++i) {
    const std::int64_t size = result[result.size() - 1 - i];
    const std::int64_t position = index % size;
    index /= size;
    if (i < operand.size()) {
      const std::int64_t own = operand[operand.size() - 1 - i];
      source += own == 1 ? 0 : position * stride;
      stride *= own;
    }
  }
  return static_cast<std::size_t>(source);
}

class Evaluation {
 public:
  Evaluation(const Graph& graph, const Node& node, std::int64_t length, std::vector<const std::vector<float>*> operands)
      : graph_(graph), node_(node), length_(length), operands_(std::move(operands)) {}

  // nullopt for an operator that no position's value needs.
  std::optional<std::vector<float>> run() const {
    switch (node_.op) {
      case Op::kReshape:
        return *operands_[0];
      case Op::kNegate:
        return unary([](float x) { return -x; });
      case Op::kSquare:
        return unary([](float x) { return x * x; });
      case Op::kSin:
        return unary([](float x) { return static_cast<float>(std::sin(static_cast<double>(x))); });
      case Op::kCos:
        return unary([](float x) { return static_cast<float>(std::cos(static_cast<double>(x))); });
      case Op::kAdd:
        return binary(std::plus<>());
      case Op::kSubtract:
        return binary(std::minus<>());
      case Op::kMultiply:
        return binary(std::multiplies<>());
      case Op::kDivide:
        return binary(std::divides<>());
      case Op::kConcat:
        return concat();
      case Op::kSlice:
        return slice();
      case Op::kTranspose:
        return transpose();
      default:
        return std::nullopt;
    }
  }

 private:
  std::vector<std::int64_t> sizes(std::size_t operand) const {
    return sizes_at(graph_.shape(node_.inputs[operand]), length_);
  }

  std::vector<float> unary(const std::function<float(float)>& function) const {
    std::vector<float> result(operands_[0]->size());
    std::ranges::transform(*operands_[0], result.begin(), function);
    return result;
  }

  std::vector<float> binary(const std::function<float(float, float)>& function) const {
    const std::vector<std::int64_t> result_sizes = sizes_at(node_.shape, length_);
    const std::vector<std::int64_t> a = sizes(0);
    const std::vector<std::int64_t> b = sizes(1);
    std::vector<float> result(static_cast<std::size_t>(product(result_sizes)));
    for (std::size_t i = 0; i < result.size(); ++i) {
      const auto index = static_cast<std::int64_t>(i);
      result[i] = function((*operands_[0])[broadcast_index(index, result_sizes, a)],
                           (*operands_[1])[broadcast_index(index, result_sizes, b)]);
    }
    return result;
  }

  std::vector<float> concat() const {
    const auto axis = static_cast<std::size_t>(std::get<AxesAttributes>(node_.attributes).axes[0]);
    std::vector<float> result;
    const std::vector<std::int64_t> first = sizes(0);
    const std::int64_t outer = product(first) / product(first, axis);
    for (std::int64_t i = 0; i < outer; ++i) {
      for (std::size_t k = 0; k < operands_.size(); ++k) {
        const auto piece = static_cast<std::ptrdiff_t>(product(sizes(k), axis));
        const auto begin = operands_[k]->begin() + i * piece;
        result.insert(result.end(), begin, begin + piece);
      }
    }
    return result;
  }

  std::vector<float> slice() const {
    const auto& range = std::get<SliceAttributes>(node_.attributes);
    const auto axis = static_cast<std::size_t>(range.axis);
    const std::vector<std::int64_t> from = sizes(0);
    const auto inner = product(from, axis + 1);
    const auto row = static_cast<std::ptrdiff_t>(from[axis] * inner);
    std::vector<float> result;
    for (auto begin = operands_[0]->begin(); begin != operands_[0]->end(); begin += row) {
      result.insert(result.end(), begin + range.begin * inner, begin + range.end * inner);
    }
    return result;
  }

  std::vector<float> transpose() const {
    const auto& axes = std::get<AxesAttributes>(node_.attributes).axes;
    const std::vector<std::int64_t> from = sizes(0);
    const std::vector<std::int64_t> to = sizes_at(node_.shape, length_);
    std::vector<float> result(operands_[0]->size());
    for (std::size_t i = 0; i < result.size(); ++i) {
      auto rest = static_cast<std::int64_t>(i);
      std::int64_t source = 0;
      for (std::size_t d = to.size(); d-- > 0;) {
        const auto axis = static_cast<std::size_t>(axes[d]);
        source += rest % to[d] * product(from, axis + 1);
        rest /= to[d];
      }
      result[i] = (*operands_[0])[static_cast<std::size_t>(source)];
    }
    return result;
  }

  const Graph& graph_;
  const Node& node_;
  std::int64_t length_;
  std::vector<const std::vector<float>*> operands_;
};

// The product of the sizes in front of the first sequence dimension; nullopt where there is none.
std::optional<std::int64_t> elements_before_sequence(const Shape& shape) {
  std::int64_t count = 1;
  for (const Dim& dim : shape) {
    if (dim.is_sequence) {
      return count;
    }
    count *= dim.value;
  }
  return std::nullopt;
}

bool keeps_positions_apart(const Graph& graph, const Node& node) {
  return node.op != Op::kReshape ||
         elements_before_sequence(node.shape) == elements_before_sequence(graph.shape(node.inputs[0]));
}

}  // namespace

PositionValues::PositionValues(const Graph& graph, std::int64_t length)
    : values_(graph.nodes().size()), can_be_cut_(graph.nodes().size(), false) {
  for (std::size_t i = 0; i < values_.size(); ++i) {
    const Node& node = graph.nodes()[i];
    if (node.op == Op::kConstant) {
      values_[i] = std::get<ConstantAttributes>(node.attributes).values;
      can_be_cut_[i] = true;
      continue;
    }
    if (node.op == Op::kPositions) {
      std::vector<float> positions(static_cast<std::size_t>(length));
      std::iota(positions.begin(), positions.end(), 0.0F);
      values_[i] = std::move(positions);
      can_be_cut_[i] = true;
      continue;
    }
    if (node.op == Op::kPositionTable) {
      const std::vector<float>& table = *find(node.inputs[1]);
      const auto count = static_cast<std::ptrdiff_t>(product(sizes_at(node.shape, length)));
      values_[i] = std::vector<float>(table.begin(), table.begin() + count);
      can_be_cut_[i] = true;
      continue;
    }
    std::vector<const std::vector<float>*> operands;
    for (const ValueId input : node.inputs) {
      operands.push_back(find(input));
    }
    const bool known = !operands.empty() && std::ranges::find(operands, nullptr) == operands.end();
    if (known) {
      values_[i] = Evaluation(graph, node, length, std::move(operands)).run();
      can_be_cut_[i] = values_[i].has_value() && keeps_positions_apart(graph, node) &&
                       std::ranges::all_of(node.inputs, [&](ValueId input) { return can_be_cut(input); });
    }
  }
}

}  // namespace diffulex_edge
