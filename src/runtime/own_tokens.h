// Text that a model makes itself, for calibration where there is no other.
#pragma once

#include <cstdint>

#include "diffulex_edge/model.h"
#include "diffulex_edge/progress.h"
#include "diffulex_edge/runtime.h"

namespace diffulex_edge {

struct OwnTokensOptions {
  std::int64_t sequences = 64;
  std::int64_t length = 256;  // tokens of a sequence, 2 or more
  std::uint64_t seed = 0;
};

// Starts from random tokens and four times replaces many at once by samples of the model's own predictions: an
// autoregressive model all but the first token, given those before it; any other first all tokens, then a random half,
// which it sees masked. Far from good text, but the inputs of its layers are much like those that good text makes.
// The result does not depend on the number of threads. Memory: activations of all tokens.
TokenSequences make_own_tokens(const Model& model, const OwnTokensOptions& options, const RunControl& control);

}  // namespace diffulex_edge
