// Weights that other programs have quantized.
#pragma once

#include "diffulex_edge/checkpoint.h"

namespace diffulex_edge {

// Throws Error{kUnsupported} naming the method where the checkpoint has such weights, whether or not its config.json
// says so.
void refuse_foreign_weights(const Checkpoint& checkpoint);

}  // namespace diffulex_edge
