// Which pieces of a model's graph share a context binary.
#pragma once

#include <cstdint>
#include <vector>

#include "diffulex_edge/quantization.h"
#include "graph/graph_parts.h"

namespace diffulex_edge::qnn {

// Neighbouring pieces, joined to `count` parts of about the same bytes of weights. Throws Error{kUnsupported} for more
// parts than pieces.
std::vector<GraphPart> join_pieces(const Graph& graph, const QuantizationPlan& plan,
                                   const std::vector<GraphPart>& pieces, std::int64_t count);

}  // namespace diffulex_edge::qnn
