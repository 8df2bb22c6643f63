// Text from a model that somebody else executes, step by step.
#include <algorithm>
#include <string>
#include <vector>

#include "core/parallel.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/generation.h"
#include "diffusion/generation.h"
#include "diffusion/request_check.h"

namespace diffulex_edge {
namespace {

void check_artefact(const ArtefactFacts& artefact, const GenerationRequest& request, const DecodingSettings& settings) {
  if (settings.window) {
    throw Error(ErrorCode::kUnsupported, "window_size", "an execution of an artefact takes tokens one behind the other",
                "leave it out: it then writes token by token");
  }
  if (settings.decoder == DecoderKind::kCausalContext) {
    throw Error(ErrorCode::kUnsupported, "cache",
                "exact takes passes with a causal mask and without, and an artefact has one of them",
                "take none, or export it with --block-length 1, which writes token by token");
  }
  if (settings.cfg_scale > 0.0) {
    throw Error(ErrorCode::kUnsupported, "cfg_scale", "an artefact has one sequence, guidance needs two",
                "leave it out");
  }
  if (!artefact.has_cache && settings.cache != CacheKind::NONE) {
    throw Error(ErrorCode::kUnsupported, "cache", "the artefact keeps nothing from one execution to the next",
                "export it with --cache TOKENS");
  }
  if (settings.cache == CacheKind::BLOCK) {
    throw Error(ErrorCode::kUnsupported, "cache", "the artefact's blocks do not see what lies behind them",
                "use the exact cache");
  }
  const std::int64_t length = canvas_length(request, settings);
  const bool in_pieces = artefact.has_cache && settings.cache == CacheKind::EXACT;
  if (!in_pieces && length > artefact.max_step_tokens) {
    throw Error(ErrorCode::kInvalidArgument, "prompt",
                "it and its answer take " + std::to_string(length) + " tokens, an execution of the artefact at most " +
                    std::to_string(artefact.max_step_tokens),
                "shorten the prompt, ask for fewer tokens, or export it for more");
  }
}

// A window is one step, or several where it is longer than a step may be: blocks do not see later ones.
class Stepper {
 public:
  Stepper(const ArtefactFacts& artefact, const StepFunction& step, const DecodingSettings& settings)
      : artefact_(artefact), step_(step) {
    const std::int64_t blocks = artefact.max_step_tokens / settings.block_length;
    most_tokens_ = settings.cache == CacheKind::EXACT ? std::max<std::int64_t>(1, blocks) * settings.block_length
                                                      : artefact.max_step_tokens;
  }

  void run(const Window& window, Generation& generation, const RunControl& control) {
    const std::span<const std::int64_t> tokens = window.tokens;
    const auto count = static_cast<std::int64_t>(tokens.size());
    std::size_t row = 0;
    for (std::int64_t begin = 0; begin < count; begin += most_tokens_) {
      const std::int64_t end = std::min(begin + most_tokens_, count);
      rows_.clear();
      while (row + rows_.size() < window.rows.size() && window.rows[row + rows_.size()] < end) {
        rows_.push_back(window.rows[row + rows_.size()] - begin);
      }
      const auto vocab = static_cast<std::size_t>(artefact_.config.vocab_size);
      logits_.resize(rows_.size() * vocab);
      step_({.tokens = tokens.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin)),
             .start = window.start + begin,
             .sees = count > most_tokens_ ? window.start + end : window.end,
             .rows = rows_},
            logits_);
      if (control.stop.stop_requested()) {
        throw Error(ErrorCode::kCancelled, {}, "stopped");
      }
      parallel_for(rows_.size(), control, [&](std::size_t i, std::size_t) {
        generation.take_row(0, row + i, std::span(logits_).subspan(i * vocab, vocab));
      });
      row += rows_.size();
    }
  }

 private:
  const ArtefactFacts& artefact_;
  const StepFunction& step_;
  std::int64_t most_tokens_ = 1;
  std::vector<std::int64_t> rows_;
  std::vector<float> logits_;
};

}  // namespace

GenerationResult generate(const ArtefactFacts& artefact, const StepFunction& step, GenerationRequest request,
                          const GenerationCallback& callback, const RunControl& control) {
  if ((!artefact.has_cache || has_causal_context(artefact.config)) && request.config.cache == CacheKind::AUTO) {
    request.config.cache = CacheKind::NONE;
  }
  if (has_window(artefact.config) && !request.config.window_size) {
    request.config.window_size = 0;  // check_artefact() says why
  }
  const DecodingSettings settings = checked_settings(artefact.config, artefact.max_tokens, request);
  check_artefact(artefact, request, settings);
  Generation generation(request, settings, 0, {.first = 0, .kept = 0}, callback);
  Stepper stepper(artefact, step, settings);
  for (std::vector<Window> windows = generation.windows(); !windows.empty(); windows = generation.windows()) {
    stepper.run(windows.front(), generation, control);
    generation.commit(control);
  }
  return generation.result(0);
}

}  // namespace diffulex_edge
