// Whether two tensors hold the same data.
#pragma once

#include "diffulex_edge/checkpoint.h"

namespace diffulex_edge {

// Compares piece by piece and gives the pages back: memory stays small, and a difference near the start costs nothing.
bool same_bytes(const TensorView& a, const TensorView& b);

}  // namespace diffulex_edge
