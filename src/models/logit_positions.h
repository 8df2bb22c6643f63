// Which token a position's logits are about.
#pragma once

#include "diffulex_edge/model.h"

namespace diffulex_edge {

// Diffusion models trained from autoregressive ones predict a token at the position before it.
bool predicts_next_position(const ModelConfig& config);
// Models of block length 1 are plain autoregressive ones: nothing is ever masked.
bool is_autoregressive(const ModelConfig& config);
// Either of them: a token's logits are those of the position before it.
bool has_shifted_logits(const ModelConfig& config);

}  // namespace diffulex_edge
