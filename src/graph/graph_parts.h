// Cuts of a model's graph between its layers, for artefacts in several pieces.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "diffulex_edge/graph.h"

namespace diffulex_edge {

// A part of the graph that becomes one program: nodes [begin, end). What passes between parts is the residual stream.
struct GraphPart {
  ValueId begin = 0;
  ValueId end = 0;
  std::optional<ValueId> input;  // the value that comes from the part before
  std::string input_name;
  std::string output_name;
};

// For each value, whether it is computed from an input's numbers, not from weights, constants and positions only.
std::vector<bool> values_of_inputs(const Graph& graph);
// By ValueId, what the output follows from.
std::vector<bool> used_values(const Graph& graph);

// The same graph with another upper bound of the sequence's length.
Graph with_longest_sequence(const Graph& graph, std::int64_t tokens);

// The whole graph as one part, and the graph cut behind each of its layers: embedding, decoder layers, head.
GraphPart whole(const Graph& graph);
std::vector<GraphPart> layers_of(const Graph& graph);

}  // namespace diffulex_edge
