#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "core/parallel.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/generation.h"
#include "diffusion/canvas.h"
#include "diffusion/decoder.h"
#include "diffusion/decoding_settings.h"
#include "diffusion/sampler.h"
#include "runtime/decoding_session.h"

namespace diffulex_edge {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

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

std::int64_t round_up_to(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// The request's options with the family's defaults. Errors: those of generate() about them.
DecodingSettings settings_of(const Model& model, const GenerationRequest& request) {
  std::int64_t new_tokens = request.config.max_new_tokens;
  if (new_tokens == 0 && model.config.mask_token_id) {
    const Canvas canvas(request.prompt, 0, request.suffix, *model.config.mask_token_id);
    new_tokens = canvas.end() - canvas.begin();
  }
  return decoding_settings(model.config, request.config, new_tokens);
}

// Tokens of the canvas as the decoder fills it up.
std::int64_t canvas_length(const GenerationRequest& request, const DecodingSettings& settings) {
  const auto length = static_cast<std::int64_t>(request.prompt.size() + request.suffix.size()) +
                      request.config.max_new_tokens;
  return settings.decoder == DecoderKind::kBidirectional ? length : round_up_to(length, settings.block_length);
}

void check_request(const Model& model, const GenerationRequest& request, const DecodingSettings& settings) {
  if (request.prompt.empty()) {
    throw Error(ErrorCode::kInvalidArgument, "prompt", "has no token");
  }
  if (!request.suffix.empty() && settings.decoder != DecoderKind::kBidirectional) {
    throw Error(ErrorCode::kUnsupported, "suffix",
                "what is written does not see what comes later in a model of the family " + model.config.family,
                "use a bidirectional model, such as LLaDA or Dream");
  }
  for (const auto& tokens : {std::span(request.prompt), std::span(request.suffix)}) {
    for (const std::int64_t id : tokens) {
      if (id < 0 || id >= model.config.vocab_size) {
        throw Error(
            ErrorCode::kInvalidArgument, "prompt",
            "token " + std::to_string(id) + " is not in the vocabulary of " + std::to_string(model.config.vocab_size));
      }
    }
  }
  const std::int64_t length = canvas_length(request, settings);
  if (length > model.seq_len) {
    throw Error(ErrorCode::kInvalidArgument, "prompt",
                std::to_string(request.prompt.size() + request.suffix.size()) + " tokens and " +
                    std::to_string(request.config.max_new_tokens) + " new ones are more than the model's " +
                    std::to_string(model.seq_len),
                "shorten the prompt, or ask for fewer tokens");
  }
}

// One request on its way.
class Generation {
 public:
  Generation(const GenerationRequest& request, DecodingSettings settings, std::size_t index, std::size_t slot)
      : config_(request.config),
        index_(index),
        slot_(slot),
        is_guided_(settings.cfg_scale > 0.0),
        sampler_(settings.sampler),
        decoder_(make_decoder(settings, Canvas(request.prompt, request.config.max_new_tokens, request.suffix,
                                               settings.mask_token))),
        unguided_masked_(decoder_->canvas().masked()) {}

  // The next pass's windows, or none.
  std::vector<Window> windows() {
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
    Window window{.sequence = slot_, .start = pass_.begin, .tokens = {}, .end = pass_.sees, .rows = {}};
    window.tokens.assign(tokens.begin() + pass_.begin, tokens.begin() + pass_.end);
    for (const std::int64_t position : pass_.positions) {
      window.rows.push_back(decoder_->row_of(pass_, position));
    }
    if (!is_guided_) {
      return {std::move(window)};
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

  // The logits of a row; `part` 1 is the window without the prompt.
  void take_row(std::size_t part, std::size_t row, std::span<float> logits) {
    if (!is_guided_) {
      sample(row, logits);
      return;
    }
    std::vector<float>& kept = guidance_[part];
    const std::size_t vocab = logits.size();
    std::ranges::copy(logits, kept.begin() + static_cast<std::ptrdiff_t>(row * vocab));
  }

  void reserve_guidance(std::size_t vocab) {
    for (std::vector<float>& kept : guidance_) {
      kept.resize(is_guided_ ? pass_.positions.size() * vocab : 0);
    }
  }

  // l = u + (scale + 1) (l - u), as LLaDA has it.
  void guide(std::size_t vocab, const RunControl& control) {
    if (!is_guided_) {
      return;
    }
    const auto factor = static_cast<float>(decoder_->settings().cfg_scale + 1.0);
    parallel_for(pass_.positions.size(), control, [&](std::size_t row, std::size_t) {
      const std::span logits = std::span(guidance_[0]).subspan(row * vocab, vocab);
      const std::span without = std::span(guidance_[1]).subspan(row * vocab, vocab);
      for (std::size_t i = 0; i < vocab; ++i) {
        logits[i] = without[i] + factor * (logits[i] - without[i]);
      }
      sample(row, logits);
    });
  }

  // All rows are sampled.
  void commit(const GenerationCallback& callback) {
    Random random = random_for(config_.seed, passes_, -1);
    decoder_->take(pass_, samples_, random);
    ++passes_;
    const Canvas& canvas = decoder_->canvas();
    if (pass_.positions.empty()) {
      return;
    }
    if (canvas.written() > 0 && first_seconds_ == 0.0) {
      first_seconds_ = seconds_since(start_);
    }
    const std::int64_t end = find_end();
    const bool goes_on = !callback || callback({.request = index_,
                                                .tokens = canvas.tokens(),
                                                .masked = canvas.masked(),
                                                .begin = canvas.begin(),
                                                .end = canvas.end(),
                                                .written = end >= 0 ? end : canvas.written(),
                                                .forward_passes = passes_});
    if (end >= 0) {
      finish(Stopped::END);
    } else if (!goes_on) {
      finish(Stopped::STOP);
    }
  }

  bool is_done() const { return is_done_; }
  std::size_t slots() const { return is_guided_ ? 2 : 1; }

  GenerationResult result(std::int64_t cache_bytes) const {
    const Canvas& canvas = decoder_->canvas();
    const std::int64_t end = find_end();
    const std::int64_t count = end >= 0 ? end : canvas.written();
    const auto first = canvas.tokens().begin() + canvas.begin();
    return {.tokens = {first, first + count},
            .prompt_tokens = canvas.begin(),
            .forward_passes = passes_,
            .cache_bytes = cache_bytes,
            .seconds = seconds_,
            .seconds_to_first_block = first_seconds_,
            .stopped = stopped_};
  }

 private:
  void sample(std::size_t row, std::span<float> logits) {
    samples_[row] = pass_.is_greedy ? SampleOutput{.token = most_probable(logits), .confidence = 1.0}
                                    : sampler_.sample(logits, present_,
                                                      random_for(config_.seed, passes_, pass_.positions[row]));
  }

  // Each token of the canvas once, for the repetition penalty.
  void find_present() {
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

  // New tokens up to and with an end token that no mask is before; -1: there is none.
  std::int64_t find_end() const {
    if (config_.ignore_eos) {
      return -1;
    }
    const Canvas& canvas = decoder_->canvas();
    for (std::int64_t i = 0; i < canvas.written(); ++i) {
      if (std::ranges::find(config_.eos_ids, canvas.token(canvas.begin() + i)) != config_.eos_ids.end()) {
        return i + 1;
      }
    }
    return -1;
  }

  void finish(Stopped stopped) {
    is_done_ = true;
    stopped_ = stopped;
    seconds_ = seconds_since(start_);
  }

  DiffusionGenerationConfig config_;
  std::size_t index_;
  std::size_t slot_;
  bool is_guided_;
  DiffusionSampler sampler_;
  std::unique_ptr<Decoder> decoder_;
  std::vector<bool> unguided_masked_;  // as the canvas was at first: guidance hides the prompt
  Pass pass_;
  std::vector<SampleOutput> samples_;
  std::vector<std::int64_t> present_;
  std::vector<float> guidance_[2];  // NOLINT(modernize-avoid-c-arrays): two of one kind
  std::int64_t passes_ = 0;
  Clock::time_point start_ = Clock::now();
  double seconds_ = 0.0;
  double first_seconds_ = 0.0;
  bool is_done_ = false;
  Stopped stopped_ = Stopped::LENGTH;
};

// A window of the batch: whose it is, and which of its two.
struct WindowOwner {
  Generation* generation = nullptr;
  std::size_t part = 0;
};

// One pass of all that are not done; false when none is left.
bool step(std::vector<std::unique_ptr<Generation>>& generations, DecodingSession& session,
          const GenerationCallback& callback, const RunControl& control) {
  const auto vocab = static_cast<std::size_t>(session.model().config.vocab_size);
  std::vector<Window> windows;
  std::vector<WindowOwner> owners;
  std::vector<Generation*> active;
  for (const std::unique_ptr<Generation>& generation : generations) {
    std::vector<Window> own = generation->windows();
    if (own.empty()) {
      continue;
    }
    generation->reserve_guidance(vocab);
    active.push_back(generation.get());
    for (std::size_t part = 0; part < own.size(); ++part) {
      windows.push_back(std::move(own[part]));
      owners.push_back({.generation = generation.get(), .part = part});
    }
  }
  if (active.empty()) {
    return false;
  }
  session.run(windows, [&](std::size_t window, std::size_t row, std::span<float> logits) {
    owners[window].generation->take_row(owners[window].part, row, logits);
  });
  for (Generation* generation : active) {
    generation->guide(vocab, control);
    generation->commit(callback);
  }
  return true;
}

}  // namespace

struct DiffusionEngine::State {
  State(const Model& source, const QuantizationPlan* plan, const RunControl& control)
      : model(source), packed(source, plan, control) {
    model.checkpoint.reset();
  }

  Model model;  // without its checkpoint
  PackedModel packed;
};

DiffusionEngine::DiffusionEngine(const Model& model, const QuantizationPlan* plan, const RunControl& control)
    : state_(std::make_unique<const State>(model, plan, control)) {}

DiffusionEngine::~DiffusionEngine() = default;
DiffusionEngine::DiffusionEngine(DiffusionEngine&&) noexcept = default;
DiffusionEngine& DiffusionEngine::operator=(DiffusionEngine&&) noexcept = default;

std::vector<GenerationResult> DiffusionEngine::generate(std::span<const GenerationRequest> requests,
                                                        const GenerationCallback& callback,
                                                        const RunControl& control) const {
  std::vector<std::unique_ptr<Generation>> generations;
  KeyValueCacheOptions cache{.capacity = 1, .sequences = 0};
  for (const GenerationRequest& request : requests) {
    DecodingSettings settings = settings_of(state_->model, request);
    check_request(state_->model, request, settings);
    if (request.config.cache_dtype != requests.front().config.cache_dtype) {
      throw Error(ErrorCode::kInvalidArgument, "cache_dtype", "differs among requests that are written side by side");
    }
    cache.capacity = std::max(cache.capacity, canvas_length(request, settings));
    cache.dtype = request.config.cache_dtype;
    generations.push_back(
        std::make_unique<Generation>(request, std::move(settings), generations.size(), cache.sequences));
    cache.sequences += generations.back()->slots();
  }
  if (generations.empty()) {
    return {};
  }
  DecodingSession session(state_->packed, cache, control);
  while (step(generations, session, callback, control)) {
  }
  std::vector<GenerationResult> results;
  for (const std::unique_ptr<Generation>& generation : generations) {
    results.push_back(generation->result(session.cache_bytes()));
  }
  return results;
}

GenerationResult DiffusionEngine::generate(const GenerationRequest& request, const GenerationCallback& callback,
                                           const RunControl& control) const {
  return std::move(generate(std::span(&request, 1), callback, control).front());
}

std::int64_t DiffusionEngine::cache_bytes(const GenerationRequest& request) const {
  const DecodingSettings settings = settings_of(state_->model, request);
  check_request(state_->model, request, settings);
  return KeyValueCache::bytes(state_->model.graph, {.capacity = canvas_length(request, settings),
                                                    .sequences = settings.cfg_scale > 0.0 ? 2U : 1U,
                                                    .dtype = request.config.cache_dtype});
}

std::int64_t DiffusionEngine::weight_bytes() const { return state_->packed.weight_bytes(); }

const ModelConfig& DiffusionEngine::config() const { return state_->model.config; }

}  // namespace diffulex_edge
