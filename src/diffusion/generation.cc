#include "diffusion/generation.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "core/parallel.h"
#include "diffulex_edge/error.h"
#include "diffusion/canvas.h"

namespace diffulex_edge {
namespace {

double seconds_since(Generation::Clock::time_point start) {
  return std::chrono::duration<double>(Generation::Clock::now() - start).count();
}

// A generator of its own for each purpose, so that no number depends on what else was drawn. Mixes as SplitMix64
// does (https://doi.org/10.1145/2660193.2660195).
Random random_for(std::uint64_t seed, std::int64_t pass, std::int64_t position) {
  std::uint64_t state = seed;
  for (const std::int64_t part : {pass, position}) {
    state += 0x9E3779B97F4A7C15U + static_cast<std::uint64_t>(part);
    state = (state ^ (state >> 30U)) * 0xBF58476D1CE4E5B9U;
    state = (state ^ (state >> 27U)) * 0x94D049BB133111EBU;
    state ^= state >> 31U;
  }
  return Random(state);
}

// Comparing needs an order, which NaN has none of.
void check_finite(std::span<const float> logits, std::int64_t position) {
  int strange = 0;
  for (const float x : logits) {
    strange |= std::fabs(x) <= std::numeric_limits<float>::max() ? 0 : 1;
  }
  if (strange != 0) {
    throw Error(ErrorCode::kBadFile, "position " + std::to_string(position), "the model's logits are not finite there",
                "`diffulex-edge evaluate` names the operator");
  }
}

// An expanding one begins with fewer masks than it may have.
Canvas first_canvas(const GenerationRequest& request, const DecodingSettings& settings) {
  const std::int64_t masks = settings.expansion ? settings.expansion->initial_masks : request.config.max_new_tokens;
  return {request.prompt, masks, request.suffix, settings.mask_token};
}

}  // namespace

Generation::Generation(const GenerationRequest& request, const DecodingSettings& settings, std::size_t id,
                       const CacheSlots::Place& place, GenerationCallback callback)
    : config_(request.config),
      callback_(std::move(callback)),
      id_(id),
      slot_(place.first),
      is_guided_(settings.cfg_scale > 0.0),
      sampler_(settings.sampler),
      decoder_(make_decoder(settings, first_canvas(request, settings))),
      unguided_masked_(decoder_->canvas().masked()),
      cached_tokens_(decoder_->reuse(place.kept)) {}

std::vector<Window> Generation::windows() {
  if (is_done_) {
    return {};
  }
  std::optional<Pass> pass = decoder_->next();
  if (!pass) {
    finish(Stopped::LENGTH);
    return {};
  }
  pass_ = std::move(*pass);
  samples_.assign(pass_.positions.size(), {});
  find_present();
  const std::vector<std::int64_t>& tokens = decoder_->canvas().tokens();
  Window window{.sequence = slot_,
                .start = pass_.begin,
                .tokens = {},
                .end = pass_.sees,
                .rows = {},
                .positions = {},
                .is_causal = pass_.is_causal};
  if (pass_.order.empty()) {
    window.tokens.assign(tokens.begin() + pass_.begin, tokens.begin() + pass_.end);
  } else {
    for (const std::int64_t position : pass_.order) {
      window.tokens.push_back(decoder_->canvas().token(position));
    }
    window.positions = pass_.order;
  }
  for (const std::int64_t position : pass_.positions) {
    window.rows.push_back(decoder_->row_of(pass_, position));
  }
  if (!is_guided_) {
    return {std::move(window)};
  }
  for (std::vector<std::vector<float>>& rows : guidance_) {
    rows.resize(pass_.positions.size());
  }
  Window without_prompt = window;
  without_prompt.sequence = slot_ + 1;
  for (std::size_t i = 0; i < without_prompt.tokens.size(); ++i) {
    if (!unguided_masked_[static_cast<std::size_t>(pass_.begin) + i]) {
      without_prompt.tokens[i] = decoder_->settings().mask_token;
    }
  }
  return {std::move(window), std::move(without_prompt)};
}

void Generation::take_row(std::size_t part, std::size_t row, std::span<float> logits) {
  check_finite(logits, pass_.positions[row]);
  if (is_guided_) {
    guidance_[part][row].assign(logits.begin(), logits.end());
  } else {
    sample(row, logits);
  }
}

void Generation::sample(std::size_t row, std::span<float> logits) {
  if (pass_.banned >= 0) {
    logits[static_cast<std::size_t>(pass_.banned)] = kNever;
  }
  samples_[row] = pass_.is_greedy
                      ? sampler_.greedy(logits)
                      : sampler_.sample(logits, present_, random_for(config_.seed, passes_, pass_.positions[row]));
}

// l = u + (scale + 1) (l - u), as LLaDA has it.
void Generation::guide(const RunControl& control) {
  const auto factor = static_cast<float>(decoder_->settings().cfg_scale + 1.0);
  parallel_for(samples_.size(), control, [&](std::size_t row, std::size_t) {
    std::vector<float>& logits = guidance_[0][row];
    const std::vector<float>& without = guidance_[1][row];
    for (std::size_t i = 0; i < logits.size(); ++i) {
      logits[i] = without[i] + factor * (logits[i] - without[i]);
    }
    sample(row, logits);
  });
}

void Generation::commit(const RunControl& control) {
  if (is_guided_) {
    guide(control);
  }
  Random random = random_for(config_.seed, passes_, -1);
  decoder_->take(pass_, samples_, random);
  ++passes_;
  if (pass_.positions.empty()) {
    return;
  }
  const Canvas& canvas = decoder_->canvas();
  if (decoder_->final_tokens() > 0 && first_seconds_ == 0.0) {
    first_seconds_ = seconds_since(start_);
  }
  const std::int64_t end = find_end();
  const bool goes_on = !callback_ || callback_({.request = id_,
                                                .tokens = canvas.tokens(),
                                                .masked = canvas.masked(),
                                                .begin = canvas.begin(),
                                                .end = canvas.end(),
                                                .written = end >= 0 ? end : decoder_->final_tokens(),
                                                .forward_passes = passes_});
  if (end >= 0) {
    finish(Stopped::END);
  } else if (!goes_on) {
    finish(Stopped::STOP);
  }
}

// Each token of the canvas once.
void Generation::find_present() {
  if (config_.repetition_penalty == 1.0) {
    return;
  }
  present_.clear();
  const Canvas& canvas = decoder_->canvas();
  for (std::int64_t i = 0; i < canvas.size(); ++i) {
    if (!canvas.is_masked(i)) {
      present_.push_back(canvas.token(i));
    }
  }
  std::ranges::sort(present_);
  const auto repeated = std::ranges::unique(present_);
  present_.erase(repeated.begin(), repeated.end());
}

// Final tokens up to and with an end token; -1: there is none.
std::int64_t Generation::find_end() const {
  if (config_.ignore_eos) {
    return -1;
  }
  const Canvas& canvas = decoder_->canvas();
  const std::int64_t final_tokens = decoder_->final_tokens();
  for (std::int64_t i = 0; i < final_tokens; ++i) {
    if (std::ranges::find(config_.eos_ids, canvas.token(canvas.begin() + i)) != config_.eos_ids.end()) {
      return i + 1;
    }
  }
  return -1;
}

void Generation::finish(Stopped stopped) {
  is_done_ = true;
  stopped_ = stopped;
  seconds_ = seconds_since(start_);
}

std::span<const std::int64_t> Generation::reusable() const {
  return std::span(decoder_->canvas().tokens()).first(static_cast<std::size_t>(decoder_->clean_tokens()));
}

GenerationResult Generation::result(std::int64_t cache_bytes) const {
  const Canvas& canvas = decoder_->canvas();
  const std::int64_t end = find_end();
  const auto first = canvas.tokens().begin() + canvas.begin();
  return {.tokens = {first, first + (end >= 0 ? end : decoder_->final_tokens())},
          .prompt_tokens = canvas.begin(),
          .cached_tokens = cached_tokens_,
          .forward_passes = passes_,
          .cache_bytes = cache_bytes,
          .seconds = is_done_ ? seconds_ : seconds_since(start_),
          .seconds_to_first_block = first_seconds_,
          .stopped = is_done_ ? stopped_ : Stopped::STOP};
}

}  // namespace diffulex_edge
