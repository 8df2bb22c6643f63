// kRoute in primitives, for targets that have no operator that chooses.
#pragma once

#include <vector>

#include "diffulex_edge/graph.h"

namespace diffulex_edge {

// Adds what kRoute with these inputs means to the graph; values of [seq, E, E] are alive in between.
ValueId decompose_route(Graph& graph, const std::vector<ValueId>& in, const RouteAttributes& attributes);

}  // namespace diffulex_edge
