// Decides, pass by pass, what a model computes and which of its predictions are committed. A decoder knows no model:
// whoever runs its passes and samples their positions, drives it, here or on a phone.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "diffusion/canvas.h"
#include "diffusion/decoding_settings.h"
#include "diffusion/sampler.h"
#include "runtime/random.h"

namespace diffulex_edge {

// One forward pass: tokens [begin, end) of the canvas, whose keys and values go into the cache, while attention sees
// the positions before `sees`. With an `order`, these are places: the tokens are those of other positions.
struct Pass {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t sees = 0;
  std::vector<std::int64_t> positions;  // of the canvas, whose tokens are to be sampled; may be none
  bool is_greedy = false;               // the most probable tokens, whatever the temperature
  std::vector<std::int64_t>
      order;                 // of the canvas, the positions of the tokens that are computed; empty: from begin on
  std::int64_t banned = -1;  // a token that has no probability in this pass; -1: none
};

class Decoder {
 public:
  // Keeps its own copies. Tokens of the canvas that are not masked at first never change.
  Decoder(DecodingSettings settings, Canvas canvas) : settings_(std::move(settings)), canvas_(std::move(canvas)) {}
  virtual ~Decoder() = default;
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;
  Decoder(Decoder&&) = delete;
  Decoder& operator=(Decoder&&) = delete;

  // Nothing once all new tokens are written.
  virtual std::optional<Pass> next() = 0;
  // What was sampled at the positions of the pass that next() gave.
  virtual void take(const Pass& pass, std::span<const SampleOutput> samples, Random& random) = 0;

  // Before the first pass: the cache holds the first tokens of the canvas, as another decoder left them. Returns how
  // many of them are not computed again.
  virtual std::int64_t reuse(std::int64_t /*tokens*/) { return 0; }
  // The first tokens of the canvas whose keys and values are in the cache, and the same whatever comes behind them.
  virtual std::int64_t clean_tokens() const { return 0; }

  // New tokens, from the first one on, that no later pass changes.
  virtual std::int64_t final_tokens() const { return canvas_.written(); }

  const DecodingSettings& settings() const { return settings_; }
  const Canvas& canvas() const { return canvas_; }
  // The row of the pass that predicts a position: the one before it where logits are shifted. The first row of a pass
  // has none before it and stands for itself, as the published programs have it.
  std::int64_t row_of(const Pass& pass, std::int64_t position) const {
    if (!pass.order.empty()) {
      return std::ranges::find(pass.order, position) - pass.order.begin();
    }
    return settings_.is_shifted && position > pass.begin ? position - 1 - pass.begin : position - pass.begin;
  }

 protected:
  // Commits what the settings' rule selects.
  void commit(const Pass& pass, std::span<const SampleOutput> samples, const StepShare& share, Random& random);

  DecodingSettings settings_;
  Canvas canvas_;
};

// Tokens of a prompt that are computed in one pass.
inline constexpr std::int64_t kPrefillTokens = 512;

// LLaDA, Dream: every token sees every other; blocks begin at the first masked position.
std::unique_ptr<Decoder> bidirectional_decoder(DecodingSettings settings, Canvas canvas);
// SDAR, and autoregressive models: blocks at multiples of their length; finished ones are computed once more, as they
// are, together with the next block, and then kept.
std::unique_ptr<Decoder> block_causal_decoder(DecodingSettings settings, Canvas canvas);
// LLaDA 2.1: as block_causal_decoder(), and placed tokens of the block that is decoded may become others.
std::unique_ptr<Decoder> editing_decoder(DecodingSettings settings, Canvas canvas);
// WeDLM: a window of masks behind what is written; what is placed in it comes before all masks.
std::unique_ptr<Decoder> window_decoder(DecodingSettings settings, Canvas canvas);
// Open-dCoder's p2: a pass may mask again what an earlier one has placed.
std::unique_ptr<Decoder> p2_decoder(DecodingSettings settings, Canvas canvas);
// DreamOn: the canvas grows and shrinks while it is filled in.
std::unique_ptr<Decoder> expanding_decoder(DecodingSettings settings, Canvas canvas);
// Fast-dLLM v2: blocks at multiples of their length, decoded by sub-blocks; a finished block's pass gives the next
// one's first token.
std::unique_ptr<Decoder> fast_dllm_v2_decoder(DecodingSettings settings, Canvas canvas);

// The one that the settings ask for.
std::unique_ptr<Decoder> make_decoder(DecodingSettings settings, Canvas canvas);

}  // namespace diffulex_edge
