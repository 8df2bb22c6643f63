#include "runtime/own_tokens.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>
#include <vector>

#include "core/parallel.h"
#include "models/logit_positions.h"
#include "models/special_tokens.h"
#include "runtime/diffusion_states.h"
#include "runtime/execution_session.h"
#include "runtime/kernels/activation_kernels.h"
#include "runtime/linear_layers.h"
#include "runtime/random.h"

namespace diffulex_edge {
namespace {

constexpr int kRounds = 4;

// A token that is to be sampled, and the number in [0, 1) that chooses it.
struct Draw {
  std::size_t sequence = 0;
  std::size_t position = 0;
  double choice = 0.0;
};

// The token at which the cumulated probability passes `choice`. `excluded` is never chosen.
std::int64_t sample_token(std::span<const float> logits, double choice, const std::optional<std::int64_t>& excluded) {
  const auto parts = kernels::exp_sum_row(logits.data(), logits.size());
  const auto probability = [&](std::size_t token) {
    return std::exp(static_cast<double>(logits[token]) - static_cast<double>(parts.max)) / parts.sum;
  };
  const std::size_t left_out = excluded ? static_cast<std::size_t>(*excluded) : logits.size();
  double left = choice * (excluded ? 1.0 - probability(left_out) : 1.0);
  std::size_t chosen = 0;  // the last likely one, where rounding leaves a little at the end
  for (std::size_t token = 0; token < logits.size() && left >= 0.0; ++token) {
    const double part = token == left_out ? 0.0 : probability(token);
    if (part > 0.0) {
      chosen = token;
      left -= part;
    }
  }
  return static_cast<std::int64_t>(chosen);
}

class OwnTokens {
 public:
  OwnTokens(const Model& model, const OwnTokensOptions& options)
      : model_(model), random_(options.seed), mask_(find_mask_token(model)) {
    tokens_.resize(static_cast<std::size_t>(options.sequences));
    for (auto& sequence : tokens_) {
      sequence.resize(static_cast<std::size_t>(options.length));
      std::ranges::generate(sequence, [&] { return random_token(); });
    }
  }

  TokenSequences run(const RunControl& control) {
    RunControl quiet = control;
    quiet.on_progress = nullptr;
    for (int round = 0; round < kRounds; ++round) {
      resample(round == 0 ? 1.0 : 0.5, quiet);
      if (control.on_progress) {
        control.on_progress(
            {.stage = "calibration text", .done_bytes = round + 1, .total_bytes = kRounds, .in_bytes = false});
      }
    }
    return std::move(tokens_);
  }

 private:
  // Any token but the mask.
  std::int64_t random_token() {
    const std::int64_t count = model_.config.vocab_size - (mask_ ? 1 : 0);
    const auto token = static_cast<std::int64_t>(random_.below(static_cast<std::size_t>(count)));
    return mask_ && token >= *mask_ ? token + 1 : token;
  }

  std::vector<Draw> choose_draws(double ratio) {
    const std::size_t shift = shift_of_targets();
    const bool causal = is_autoregressive(model_.config);
    std::vector<Draw> draws;
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      const std::size_t size = tokens_[i].size() - shift;
      const double wanted = causal ? static_cast<double>(size) : ratio * static_cast<double>(size);
      for (const std::size_t offset : random_.sample(size, static_cast<std::size_t>(std::lround(wanted)))) {
        draws.push_back({.sequence = i, .position = shift + offset, .choice = random_.uniform()});
      }
    }
    return draws;
  }

  std::size_t shift_of_targets() const {
    return is_autoregressive(model_.config) || predicts_next_position(model_.config) ? 1 : 0;
  }

  void resample(double ratio, const RunControl& control) {
    const std::vector<Draw> draws = choose_draws(ratio);
    TokenSequences inputs = tokens_;
    if (!is_autoregressive(model_.config)) {
      ModelConfig config = model_.config;
      config.mask_token_id = mask_;
      const std::int64_t mask = mask_token(config);
      for (const Draw& draw : draws) {
        inputs[draw.sequence][draw.position] = mask;
      }
    }
    const LinearLayers layers(model_, nullptr);
    const ExecutionPlan plan(model_.graph);
    ExecutionSession session(plan, model_, layers, control);
    session.begin(make_batch(model_, inputs));
    session.run_to_output();
    std::vector<std::int64_t> rows;
    for (const Draw& draw : draws) {
      rows.push_back(session.offsets()[draw.sequence] + static_cast<std::int64_t>(draw.position - shift_of_targets()));
    }
    const auto vocab = static_cast<std::size_t>(model_.config.vocab_size);
    session.logits(rows, [&](std::size_t first, std::size_t count, std::span<const float> values) {
      parallel_for(count, control, [&](std::size_t i, std::size_t) {
        const Draw& draw = draws[first + i];
        tokens_[draw.sequence][draw.position] = sample_token(values.subspan(i * vocab, vocab), draw.choice, mask_);
      });
    });
  }

  const Model& model_;
  Random random_;
  std::optional<std::int64_t> mask_;
  TokenSequences tokens_;
};

}  // namespace

TokenSequences make_own_tokens(const Model& model, const OwnTokensOptions& options, const RunControl& control) {
  return OwnTokens(model, options).run(control);
}

}  // namespace diffulex_edge
