// The type and shape of an operator's result.
#pragma once

#include <span>

#include "diffulex_edge/graph.h"

namespace diffulex_edge {

struct ValueType {
  DType dtype = DType::kF32;
  Shape shape;
};

// `inputs` are the nodes that make the operator's inputs. Throws Error{kInternal} naming the operator.
ValueType infer_type(Op op, std::span<const Node* const> inputs, const Attributes& attributes);

}  // namespace diffulex_edge
