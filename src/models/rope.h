// Rotary position embedding.
#pragma once

#include <cstdint>
#include <vector>

#include "diffulex_edge/model.h"

namespace diffulex_edge {

// head_dim / 2 inverse frequencies, in radians per position. Formulas: docs/ARCHITECTURE.md, "RoPE".
std::vector<float> rope_inverse_frequencies(const RopeConfig& rope, std::int64_t head_dim);

}  // namespace diffulex_edge
