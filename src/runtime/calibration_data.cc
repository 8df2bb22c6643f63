// From a file of text or token ids to the states that a diffusion model sees.

#include <algorithm>
#include <optional>

#include "diffulex_edge/calibration.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/evaluation.h"
#include "models/logit_positions.h"
#include "models/special_tokens.h"
#include "runtime/diffusion_states.h"
#include "runtime/model_tokens.h"
#include "runtime/own_tokens.h"

namespace diffulex_edge {
namespace {

void add(CalibrationData& data, DiffusionState state) {
  std::vector<bool> counts;
  for (const std::int64_t target : state.target) {
    counts.push_back(target != kIgnoredTarget);
  }
  data.inputs.push_back(std::move(state.input));
  data.masked.push_back(std::move(state.masked));
  data.counts.push_back(std::move(counts));
}

// A recorded state: what is masked shows in the tokens.
DiffusionState recorded_state(const ModelConfig& config, std::vector<std::int64_t> tokens) {
  DiffusionState state{.input = std::move(tokens), .target = {}, .masked = {}};
  const std::size_t size = state.input.size();
  state.target.assign(size, kIgnoredTarget);
  state.masked.assign(size, false);
  const std::size_t shift = predicts_next_position(config) ? 1 : 0;
  for (std::size_t i = 0; i < size; ++i) {
    if (config.mask_token_id && state.input[i] == *config.mask_token_id) {
      state.masked[i] = true;
      if (i >= shift) {
        state.target[i - shift] = state.input[i];
      }
    }
  }
  return state;
}

void check(const CalibrationOptions& options) {
  if (options.length < 2 || options.length > (1 << 20)) {
    throw Error(ErrorCode::kInvalidArgument, "calibration length",
                std::to_string(options.length) + " is not in 2..1048576");
  }
  if (options.max_sequences < 1) {
    throw Error(ErrorCode::kInvalidArgument, "calibration sequences",
                std::to_string(options.max_sequences) + " is not positive");
  }
}

}  // namespace

CalibrationData load_calibration_data(const Model& model, const CalibrationOptions& options,
                                      const RunControl& control) {
  check(options);
  const std::int64_t length = std::min(options.length, model.seq_len);
  const TokenDataOptions limits{
      .length = length, .max_sequences = options.max_sequences, .vocab_size = model.config.vocab_size};
  const OwnTokensOptions own{.sequences = options.max_sequences, .length = length, .seed = options.seed};
  TokenSequences sequences = options.data == kOwnTokens ? make_own_tokens(model, own, control)
                                                        : read_model_tokens(model, options.data, limits);
  ModelConfig config = model.config;
  config.mask_token_id = find_mask_token(model);
  const std::optional<std::int64_t> mask = config.mask_token_id;
  const bool recorded =
      options.data.extension() == ".safetensors" || (mask && std::ranges::any_of(sequences, [&](const auto& tokens) {
                                                       return std::ranges::find(tokens, *mask) != tokens.end();
                                                     }));
  CalibrationData data;
  Random random(options.seed);
  std::size_t index = 0;
  for (auto& tokens : sequences) {
    const double ratio = (static_cast<double>(index++) + random.uniform()) / static_cast<double>(sequences.size());
    if (recorded) {
      add(data, recorded_state(config, std::move(tokens)));
    } else if (is_autoregressive(config)) {
      add(data, next_tokens(tokens));
    } else {
      add(data, mask_tokens(config, tokens, ratio, random));
    }
  }
  return data;
}

}  // namespace diffulex_edge
