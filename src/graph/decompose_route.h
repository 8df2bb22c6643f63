// kRoute in primitives, for targets that have no operator that chooses.
#pragma once

#include <string>
#include <vector>

#include "diffulex_edge/graph.h"

namespace diffulex_edge {

// Adds what kRoute with these inputs means to the graph; values of [seq, E, E] are alive in between. The addition of
// the bias has the node's `name`.
ValueId decompose_route(Graph& graph, const std::vector<ValueId>& in, const RouteAttributes& attributes,
                        const std::string& name);

}  // namespace diffulex_edge
