#include "graph/graph_parts.h"

#include <algorithm>
#include <cstddef>
#include <utility>

namespace diffulex_edge {

std::vector<bool> values_of_inputs(const Graph& graph) {
  std::vector<bool> result(graph.nodes().size(), false);
  for (std::size_t i = 0; i < result.size(); ++i) {
    const Node& node = graph.nodes()[i];
    const bool from_positions = node.op == Op::kPositions || node.op == Op::kPositionTable;
    result[i] = node.op == Op::kInput || (!from_positions && std::ranges::any_of(node.inputs, [&](ValueId input) {
                  return static_cast<bool>(result[static_cast<std::size_t>(input)]);
                }));
  }
  return result;
}

namespace {

// For each value, whether it is all that what comes after it needs of what came before.
std::vector<bool> crossings_alone(const Graph& graph) {
  const std::vector<bool> counts = values_of_inputs(graph);
  std::vector<std::size_t> last_use(graph.nodes().size(), 0);
  for (std::size_t i = 0; i < last_use.size(); ++i) {
    if (counts[i]) {
      for (const ValueId input : graph.nodes()[i].inputs) {
        last_use[static_cast<std::size_t>(input)] = i;
      }
    }
  }
  std::vector<bool> alone(last_use.size(), false);
  std::size_t furthest = 0;  // that anything before the value is needed for
  for (std::size_t i = 0; i < alone.size(); ++i) {
    alone[i] = counts[i] && furthest <= i;
    if (counts[i]) {
      furthest = std::max(furthest, last_use[i]);
    }
  }
  return alone;
}

}  // namespace

std::vector<bool> used_values(const Graph& graph) {
  std::vector<bool> used(graph.nodes().size(), false);
  used.at(static_cast<std::size_t>(graph.output())) = true;
  for (std::size_t i = graph.nodes().size(); i-- > 0;) {
    if (used[i]) {
      for (const ValueId input : graph.nodes()[i].inputs) {
        used[static_cast<std::size_t>(input)] = true;
      }
    }
  }
  return used;
}

Graph with_longest_sequence(const Graph& graph, std::int64_t tokens) {
  const auto bounded = [tokens](Shape shape) {
    for (Dim& dim : shape) {
      dim.value = dim.is_sequence ? tokens : dim.value;
    }
    return shape;
  };
  Graph result;
  for (const Node& node : graph.nodes()) {  // every node has its number again
    switch (node.op) {
      case Op::kInput:
        result.input(node.name, node.dtype, bounded(node.shape));
        break;
      case Op::kWeight:
        result.weight(std::get<WeightAttributes>(node.attributes).tensor, node.shape);
        break;
      case Op::kConstant:
        result.constant(std::get<ConstantAttributes>(node.attributes).values, node.shape);
        break;
      default: {
        Attributes attributes = node.attributes;
        if (auto* shape = std::get_if<ShapeAttributes>(&attributes)) {
          shape->shape = bounded(shape->shape);
        }
        result.add(node.op, node.inputs, std::move(attributes), node.name);
      }
    }
  }
  result.set_output(graph.output(), graph.output_name());
  return result;
}

GraphPart whole(const Graph& graph) { return {.begin = 0, .end = static_cast<ValueId>(graph.nodes().size())}; }

std::vector<GraphPart> layers_of(const Graph& graph) {
  // The residual stream at the end of the embedding and of each layer: the value that is added to, twice in a layer.
  const std::vector<bool> alone = crossings_alone(graph);
  std::vector<ValueId> ends;
  int adds = 0;
  for (ValueId value = 0; value < graph.output(); ++value) {
    const Op op = graph.node(value).op;
    if (!alone[static_cast<std::size_t>(value)]) {
      continue;
    }
    adds += op == Op::kAdd ? 1 : 0;
    if (op == Op::kEmbedding || (op == Op::kAdd && adds % 2 == 0)) {
      ends.push_back(value);
    }
  }
  std::vector<GraphPart> parts;
  GraphPart part;
  for (const ValueId end : ends) {
    part.end = end + 1;
    part.output_name = "hidden_states_" + std::to_string(parts.size());
    parts.push_back(part);
    part = {.begin = end + 1, .input = end, .input_name = part.output_name};
  }
  part.end = static_cast<ValueId>(graph.nodes().size());
  parts.push_back(part);
  return parts;
}

}  // namespace diffulex_edge
