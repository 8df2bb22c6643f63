#include "diffulex_edge/graph.h"

#include <array>
#include <utility>

#include "diffulex_edge/error.h"
#include "graph/shape_inference.h"

namespace diffulex_edge {

std::string_view to_string(Op op) {
  constexpr std::array<std::string_view, 40> kNames = {"input",
                                                       "weight",
                                                       "constant",
                                                       "positions",
                                                       "position_table",
                                                       "embedding",
                                                       "linear",
                                                       "rms_norm",
                                                       "layer_norm",
                                                       "rope",
                                                       "attention",
                                                       "swiglu",
                                                       "block_causal_mask",
                                                       "route",
                                                       "dispatch",
                                                       "combine",
                                                       "add",
                                                       "subtract",
                                                       "multiply",
                                                       "divide",
                                                       "negate",
                                                       "square",
                                                       "rsqrt",
                                                       "sqrt",
                                                       "sigmoid",
                                                       "tanh",
                                                       "exp",
                                                       "gelu",
                                                       "sin",
                                                       "cos",
                                                       "floor",
                                                       "clamp",
                                                       "reduce_mean",
                                                       "softmax",
                                                       "matmul",
                                                       "reshape",
                                                       "transpose",
                                                       "slice",
                                                       "concat",
                                                       "gather"};
  return kNames.at(static_cast<std::size_t>(op));
}

bool is_composite(Op op) { return op >= Op::kEmbedding && op <= Op::kCombine; }

ValueId Graph::input(std::string name, DType dtype, Shape shape) {
  return append({.op = Op::kInput, .name = std::move(name), .dtype = dtype, .shape = std::move(shape)});
}

ValueId Graph::weight(std::string tensor, Shape shape) {
  return append(
      {.op = Op::kWeight, .attributes = WeightAttributes{.tensor = std::move(tensor)}, .shape = std::move(shape)});
}

ValueId Graph::constant(std::vector<float> values, Shape shape) {
  if (element_count(shape) != static_cast<std::int64_t>(values.size())) {
    throw Error(ErrorCode::kInternal, "constant", "the values do not fill the shape " + to_string(shape));
  }
  return append(
      {.op = Op::kConstant, .attributes = ConstantAttributes{.values = std::move(values)}, .shape = std::move(shape)});
}

ValueId Graph::add(Op op, std::vector<ValueId> inputs, Attributes attributes, std::string name) {
  std::vector<const Node*> input_nodes;
  input_nodes.reserve(inputs.size());
  for (const ValueId input : inputs) {
    input_nodes.push_back(&node(input));
  }
  ValueType type = infer_type(op, input_nodes, attributes);
  return append({.op = op,
                 .name = std::move(name),
                 .inputs = std::move(inputs),
                 .attributes = std::move(attributes),
                 .dtype = type.dtype,
                 .shape = std::move(type.shape)});
}

void Graph::set_output(ValueId value, std::string name) {
  output_ = value;
  output_name_ = std::move(name);
}

ValueId Graph::append(Node node) {
  nodes_.push_back(std::move(node));
  return static_cast<ValueId>(nodes_.size() - 1);
}

}  // namespace diffulex_edge
