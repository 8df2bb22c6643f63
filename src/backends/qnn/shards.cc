#include "backends/qnn/shards.h"

#include <numeric>
#include <string>

#include "diffulex_edge/error.h"

namespace diffulex_edge::qnn {
namespace {

// Bytes of the weights that a part's operators use.
std::int64_t weight_bytes(const Graph& graph, const QuantizationPlan& plan, const GraphPart& part) {
  std::int64_t bytes = 0;
  for (ValueId value = part.begin; value < part.end; ++value) {
    const Node& user = graph.node(value);
    for (const ValueId input : user.inputs) {
      if (graph.node(input).op == Op::kWeight) {
        const LayerPlan& layer = plan.at(user.name, graph.tensor(input));
        bytes += layer.value_bytes() + layer.scale_bytes();
      }
    }
  }
  return bytes;
}

}  // namespace

std::vector<GraphPart> join_pieces(const Graph& graph, const QuantizationPlan& plan,
                                   const std::vector<GraphPart>& pieces, std::int64_t count) {
  if (count > static_cast<std::int64_t>(pieces.size())) {
    throw Error(ErrorCode::kUnsupported, "shards",
                std::to_string(count) + " are more than the " + std::to_string(pieces.size()) +
                    " pieces that the model can be cut into");
  }
  std::vector<std::int64_t> bytes;
  for (const GraphPart& piece : pieces) {
    bytes.push_back(weight_bytes(graph, plan, piece));
  }
  const auto total = static_cast<double>(std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0}));
  std::vector<GraphPart> parts;
  double before = 0.0;  // bytes of the pieces so far
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const auto made = static_cast<std::int64_t>(parts.size());
    // A part begins where the middle of its first piece lies behind its share of the whole, or where as many pieces are
    // left as parts.
    const double middle = before + static_cast<double>(bytes[i]) / 2.0;
    const bool is_due = middle * static_cast<double>(count) > total * static_cast<double>(made);
    const bool is_last_chance = static_cast<std::int64_t>(pieces.size() - i) == count - made;
    if (made == 0 || (made < count && (is_due || is_last_chance))) {
      parts.push_back(pieces[i]);
    } else {
      parts.back().end = pieces[i].end;
      parts.back().output_name = pieces[i].output_name;
    }
    before += static_cast<double>(bytes[i]);
  }
  return parts;
}

}  // namespace diffulex_edge::qnn
