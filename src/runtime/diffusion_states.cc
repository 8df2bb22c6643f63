#include "runtime/diffusion_states.h"

#include <algorithm>
#include <cmath>

#include "diffulex_edge/error.h"
#include "diffulex_edge/evaluation.h"
#include "models/logit_positions.h"

namespace diffulex_edge {

std::int64_t mask_token(const ModelConfig& config) {
  if (!config.mask_token_id) {
    throw Error(ErrorCode::kInvalidArgument, "mask token",
                "neither config.json nor the tokenizer's files say which token it is", "give --mask-token-id");
  }
  return *config.mask_token_id;
}

DiffusionState mask_tokens(const ModelConfig& config, const std::vector<std::int64_t>& tokens, double ratio,
                           Random& random) {
  const std::int64_t mask = mask_token(config);
  std::size_t begin = 0;
  std::size_t end = tokens.size();
  if (config.block_length > 0) {
    const auto block = static_cast<std::size_t>(config.block_length);
    begin = random.below((tokens.size() + block - 1) / block) * block;
    end = std::min(tokens.size(), begin + block);
  }
  const bool shifted = predicts_next_position(config);
  if (shifted && begin == 0) {
    begin = 1;  // nothing predicts the first token
    end = std::max<std::size_t>(end, 2);
  }
  DiffusionState state;
  state.input.assign(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(end));
  state.target.assign(end, kIgnoredTarget);
  state.masked.assign(end, false);
  const std::size_t size = end - begin;
  const auto wanted = static_cast<std::size_t>(std::lround(ratio * static_cast<double>(size)));
  for (const std::size_t offset : random.sample(size, std::clamp<std::size_t>(wanted, 1, size))) {
    const std::size_t position = begin + offset;
    state.target[shifted ? position - 1 : position] = tokens[position];
    state.input[position] = mask;
    state.masked[position] = true;
  }
  return state;
}

DiffusionState next_tokens(const std::vector<std::int64_t>& tokens) {
  DiffusionState state;
  state.input.assign(tokens.begin(), tokens.end() - 1);
  state.target.assign(tokens.begin() + 1, tokens.end());
  state.masked.assign(state.input.size(), false);
  return state;
}

}  // namespace diffulex_edge
