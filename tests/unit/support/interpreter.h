// A naive evaluator of primitive operators, in double precision: the tests' own idea of what they mean.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "diffulex_edge/graph.h"

namespace diffulex_edge::testing {

struct Array {
  std::vector<std::int64_t> shape;
  std::vector<double> values;
};

// Evaluates `graph`, in which no composite is left, for `ids` (any length up to the bound) and the weights by tensor
// name. Returns the value of the graph's output.
Array interpret(const Graph& graph, const std::vector<std::int64_t>& ids, const std::map<std::string, Array>& weights);

}  // namespace diffulex_edge::testing
