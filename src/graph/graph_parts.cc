#include "graph/graph_parts.h"

namespace diffulex_edge {

GraphPart whole(const Graph& graph) { return {.begin = 0, .end = static_cast<ValueId>(graph.nodes().size())}; }

std::vector<GraphPart> layers_of(const Graph& graph) {
  // The residual stream at the end of the embedding and of each layer: the value that is added to.
  std::vector<ValueId> ends;
  int adds = 0;
  for (ValueId value = 0; value < static_cast<ValueId>(graph.nodes().size()); ++value) {
    const Op op = graph.node(value).op;
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
