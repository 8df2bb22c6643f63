// One request on its way: what it wants of the next pass, and what it makes of the logits.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "diffulex_edge/generation.h"
#include "diffulex_edge/progress.h"
#include "diffusion/cache_slots.h"
#include "diffusion/decoder.h"
#include "diffusion/decoding_settings.h"
#include "diffusion/sampler.h"
#include "runtime/decoding_session.h"

namespace diffulex_edge {

class Generation {
 public:
  using Clock = std::chrono::steady_clock;

  // `place` is its first sequence in the cache.
  Generation(const GenerationRequest& request, const DecodingSettings& settings, std::size_t id,
             const CacheSlots::Place& place, GenerationCallback callback);

  // The next pass's windows: one, or two with guidance; none when it is done.
  std::vector<Window> windows();
  // The logits of a row of windows()[part]. Rows may be taken by several threads at once.
  void take_row(std::size_t part, std::size_t row, std::span<float> logits);
  // After all rows of a pass: commits what was sampled.
  void commit(const RunControl& control);

  bool is_done() const { return is_done_; }
  std::size_t slot() const { return slot_; }
  std::size_t slots() const { return is_guided_ ? 2 : 1; }
  // The first tokens of prompt and text that another request with the same beginning need not compute again.
  std::span<const std::int64_t> reusable() const;
  // So far, or of the whole.
  GenerationResult result(std::int64_t cache_bytes) const;

 private:
  void sample(std::size_t row, std::span<float> logits);
  void guide(const RunControl& control);
  void find_present();
  std::int64_t find_end() const;
  void finish(Stopped stopped);

  DiffusionGenerationConfig config_;
  GenerationCallback callback_;
  std::size_t id_;
  std::size_t slot_;
  bool is_guided_;
  DiffusionSampler sampler_;
  std::unique_ptr<Decoder> decoder_;
  std::vector<bool> unguided_masked_;  // as the canvas was at first: guidance hides the rest of it
  Pass pass_;
  std::vector<SampleOutput> samples_;
  std::vector<std::int64_t> present_;                        // tokens, each once, for the repetition penalty
  std::array<std::vector<std::vector<float>>, 2> guidance_;  // logits of each row, with and without the prompt
  std::int64_t passes_ = 0;
  Clock::time_point start_ = Clock::now();
  double seconds_ = 0.0;
  double first_seconds_ = 0.0;
  bool is_done_ = false;
  Stopped stopped_ = Stopped::LENGTH;
  std::int64_t cached_tokens_;
};

}  // namespace diffulex_edge
