// Sequences as a diffusion model sees them while it decodes: partly masked.
#pragma once

#include <cstdint>
#include <vector>

#include "diffulex_edge/model.h"
#include "runtime/random.h"

namespace diffulex_edge {

struct DiffusionState {
  std::vector<std::int64_t> input;
  // The true token at each position whose logits predict a masked one; kIgnoredTarget elsewhere.
  std::vector<std::int64_t> target;
  std::vector<bool> masked;  // of the input
};

// The id of the model's mask token. Throws Error{kInvalidArgument} where the configuration does not have it.
std::int64_t mask_token(const ModelConfig& config);

// Masks round(ratio * n) of the tokens, at least one. A block-causal model's state is a clean prefix and one masked
// block, chosen at random: later blocks are left out, they do not exist yet. Needs two tokens or more.
DiffusionState mask_tokens(const ModelConfig& config, const std::vector<std::int64_t>& tokens, double ratio,
                           Random& random);

// An autoregressive model's state: all tokens but the last, each predicting the next.
DiffusionState next_tokens(const std::vector<std::int64_t>& tokens);

}  // namespace diffulex_edge
