// Writes text with diffusion language models, and with autoregressive ones, on the CPU: every family decodes as its
// authors published it.
//
// A canvas holds the prompt and masks behind it. Each forward pass predicts the masked tokens, and some of them are
// committed: which, and how many, is the family's decoding. docs/GENERATION.md describes each.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "diffulex_edge/model.h"
#include "diffulex_edge/progress.h"
#include "diffulex_edge/quantization.h"
#include "diffulex_edge/runtime.h"

namespace diffulex_edge {

// Which of the predicted tokens a step commits.
enum class Remasking {
  LOW_CONFIDENCE,          // LLaDA: the most probable ones, as many as the step's share
  RANDOM,                  // LLaDA: any, as many as the step's share
  ORIGIN,                  // Dream: each one with the step's probability
  MASKGIT_PLUS,            // Dream: the most probable ones
  TOPK_MARGIN,             // Dream: those whose best token is farthest ahead of the second
  ENTROPY,                 // Dream: those with the least entropy
  SEQUENTIAL,              // SDAR: from left to right
  LOW_CONFIDENCE_STATIC,   // SDAR: the most probable ones, as many as the step's share
  LOW_CONFIDENCE_DYNAMIC,  // SDAR: all above the threshold, at least the step's share
  ENTROPY_BOUNDED,         // as many as keep the sum of entropies, without the largest, within a bound
  P2,  // Open-dCoder: of all that is written, placed tokens included, the step's share of the most probable stays
};

std::string_view to_string(Remasking remasking);  // "low_confidence", ...
// Error{kInvalidArgument} for anything else.
Remasking parse_remasking(std::string_view text);

// What is kept of earlier passes. Block-causal models lose nothing by it: finished blocks never change. In
// bidirectional models every token changes all others, and the caches of Fast-dLLM (https://arxiv.org/abs/2505.22618)
// are approximations: keys and values of other positions are those of the block's first pass.
enum class CacheKind {
  AUTO,    // EXACT where a model is block-causal, else NONE
  NONE,    // every pass computes all tokens
  EXACT,   // block-causal: finished blocks
  PREFIX,  // bidirectional: what is before the block
  DUAL,    // bidirectional: what is before and behind the block
  BLOCK,   // Fast-dLLM v2: finished blocks exactly, and the rest of the block as the published block cache does
};

std::string_view to_string(CacheKind kind);  // "auto", ...
// Error{kInvalidArgument} for anything else.
CacheKind parse_cache_kind(std::string_view text);

// How a request is decoded. What is absent is the family's own default (docs/GENERATION.md has the table).
struct DiffusionGenerationConfig {
  std::int64_t max_new_tokens = 128;             // 0: the masks in the prompt
  std::optional<std::int64_t> steps;             // of the whole answer, shared evenly over its blocks
  std::optional<std::int64_t> steps_per_block;   // the same for each block; not beside `steps`
  std::optional<std::int64_t> block_length;      // bidirectional models: tokens that are decoded before later ones
  std::optional<std::int64_t> sub_block_length;  // Fast-dLLM v2
  std::optional<Remasking> remasking;
  // Commits all tokens at least (SDAR, Fast-dLLM v2: more) this probable, and always the best: fewer passes.
  std::optional<double> threshold;
  // Commits the n best while the n-th has a probability of at least 1 - factor / (n + 1). Not beside `threshold`.
  std::optional<double> factor;
  double eb_threshold = 0.35;  // of ENTROPY_BOUNDED, in nats

  // LLaDA 2.1: placed tokens of the block become others whose probability is above this. Absent: what is placed stays.
  std::optional<double> editing_threshold;
  std::optional<std::int64_t> max_post_steps;  // of editing: passes of a block whose masks are gone, at most (16)

  // DreamOn: a mask that becomes this token is two masks in the next pass, and one that becomes an end token is none.
  // Absent: the canvas keeps its length.
  std::optional<std::int64_t> expand_id;
  std::optional<std::int64_t> initial_masks;  // that the canvas begins with, at most max_new_tokens (4)
  std::optional<std::int64_t> expand_budget;  // masks that may be added (twice the most that there is room for)
  bool pad_delete_to_right = false;           // a mask that becomes an end token takes those behind it with it

  // WeDLM: masks in a window behind what is written (16). All that are certain enough become tokens, at least one:
  // those whose entropy, and a penalty for each position behind the first mask, is below the threshold, in nats (0.4,
  // 0.02).
  std::optional<std::int64_t> window_size;  // 0: token by token
  std::optional<double> entropy_threshold;
  std::optional<double> pos_penalty_factor;

  double temperature = 0.0;  // 0: the most probable token
  std::int64_t top_k = 0;    // 0: all
  double top_p = 1.0;
  double min_p = 0.0;               // of the most probable token's probability
  double repetition_penalty = 1.0;  // divides positive logits of tokens that are there, multiplies negative ones
  std::uint64_t seed = 0;

  double eps = 1e-3;                    // Dream: the last time step
  double alg_temp = 0.0;                // Dream: draws the positions by softmax(confidence / alg_temp)
  double cfg_scale = 0.0;               // LLaDA: classifier-free guidance
  bool logits_eos_inf = false;          // LLaDA: end tokens are never written
  bool confidence_eos_eot_inf = false;  // LLaDA: end tokens are committed last

  std::vector<std::int64_t> eos_ids;   // end the text
  std::optional<std::int64_t> eot_id;  // LLaDA's end of turn
  bool ignore_eos = false;             // write max_new_tokens, whatever they are

  CacheKind cache = CacheKind::AUTO;
  // PREFIX and DUAL: passes of a block after which everything is computed again; 0: only where a block begins.
  std::int64_t cache_refresh = 0;
  CacheDtype cache_dtype = CacheDtype::FP32;
};

// What to write: tokens between a prompt and a suffix. The mask token in either stands for a token to be written too;
// with max_new_tokens 0 for these alone.
struct GenerationRequest {
  std::vector<std::int64_t> prompt;
  std::vector<std::int64_t> suffix;  // bidirectional models only
  DiffusionGenerationConfig config;
};

// A canvas between two passes.
struct GenerationState {
  std::size_t request = 0;               // its place among those of generate(), or its id in a loop
  std::span<const std::int64_t> tokens;  // of the whole canvas, prompt and suffix included
  const std::vector<bool>& masked;       // of each token: still to be written
  std::int64_t begin = 0;                // the first new token
  std::int64_t end = 0;                  // behind the last one
  std::int64_t written = 0;              // new tokens from `begin` on that no later pass changes
  std::int64_t forward_passes = 0;
};

// Called after every pass that wrote a token, from the thread that generates; false ends this request. Must not throw.
using GenerationCallback = std::function<bool(const GenerationState&)>;

enum class Stopped { END, LENGTH, STOP };  // an end token; max_new_tokens; the callback

std::string_view to_string(Stopped stopped);  // "end", "length", "stop"

struct GenerationResult {
  // The new ones, up to and with an end token; without masks.
  std::vector<std::int64_t> tokens;
  std::int64_t prompt_tokens = 0;
  std::int64_t cached_tokens = 0;  // of the prompt: an earlier request of the loop had computed them
  std::int64_t forward_passes = 0;
  std::int64_t cache_bytes = 0;
  double seconds = 0.0;
  double seconds_to_first_block = 0.0;  // until the first new tokens were final
  Stopped stopped = Stopped::LENGTH;

  double tokens_per_forward() const;
  double tokens_per_second() const;
};

// A model with packed weights, ready to write.
class DiffusionEngine {
 public:
  // Packs the weights as PackedModel does, in the plan's formats, or maps them from the folder `packs`. Errors: those
  // of PackedModel.
  explicit DiffusionEngine(const Model& model, const QuantizationPlan* plan = nullptr, const RunControl& control = {},
                           const std::filesystem::path& packs = {});
  ~DiffusionEngine();
  DiffusionEngine(DiffusionEngine&& other) noexcept;
  DiffusionEngine& operator=(DiffusionEngine&& other) noexcept;
  DiffusionEngine(const DiffusionEngine&) = delete;
  DiffusionEngine& operator=(const DiffusionEngine&) = delete;

  // Writes all requests, side by side: each pass computes the windows of all of them, and no request's tokens depend on
  // the others or on the number of threads. May be called from several threads at once. Results in the order of the
  // requests. Errors, all before the first pass: kInvalidArgument for an empty prompt, a prompt and max_new_tokens
  // beyond the model's length, a token outside the vocabulary, options that contradict each other or that the family
  // does not have, a model without a mask token; kUnsupported for a suffix of a block-causal model; kOutOfMemory. And
  // kCancelled.
  std::vector<GenerationResult> generate(std::span<const GenerationRequest> requests,
                                         const GenerationCallback& callback = {}, const RunControl& control = {}) const;
  GenerationResult generate(const GenerationRequest& request, const GenerationCallback& callback = {},
                            const RunControl& control = {}) const;

  // What a request's cache takes. Errors: those of generate() about its options.
  std::int64_t cache_bytes(const GenerationRequest& request) const;
  std::int64_t weight_bytes() const;
  const ModelConfig& config() const;
  // The most tokens of a prompt and an answer together.
  std::int64_t max_tokens() const;

 private:
  friend class GenerationLoop;

  struct State;
  std::unique_ptr<const State> state_;
};

// Requests that are written side by side and come and go between passes, as in a server. One thread at a time.
//
// A request that begins with the tokens of an earlier one, as the turns of a conversation do, goes on from what the
// cache still holds of them. Block-causal models only, where that changes no token: in bidirectional ones, every token
// depends on all others.
class GenerationLoop {
 public:
  struct Options {
    std::int64_t capacity = 0;  // tokens of a request's prompt and answer together, filled up to whole blocks
    std::size_t sequences = 1;  // at once; a request with guidance counts twice
    CacheDtype cache_dtype = CacheDtype::FP32;
  };

  // `engine` must outlive this. Takes the memory of the caches. Errors: kInvalidArgument for a capacity beyond
  // engine.max_tokens(), kOutOfMemory.
  GenerationLoop(const DiffusionEngine& engine, const Options& options, const RunControl& control = {});
  ~GenerationLoop();
  GenerationLoop(GenerationLoop&& other) noexcept;
  GenerationLoop& operator=(GenerationLoop&& other) noexcept;
  GenerationLoop(const GenerationLoop&) = delete;
  GenerationLoop& operator=(const GenerationLoop&) = delete;

  // Throws what DiffusionEngine::generate() does for a request that can't be, and kInvalidArgument for one beyond the
  // capacity or with another cache_dtype.
  void check(const GenerationRequest& request) const;
  // Whether a request can begin now; else it has to wait until another one is taken away.
  bool has_room(const GenerationRequest& request) const;
  // Begins a request, for which there is room, with the next step. Returns its id. Errors: those of check().
  std::size_t add(const GenerationRequest& request, GenerationCallback callback = {});

  // One pass of all requests that are not done; false where there is none. After an error, no request can go on.
  bool step();
  bool is_done(std::size_t id) const;
  // Takes a request away, done or not, with what it wrote so far.
  GenerationResult take(std::size_t id);

  std::int64_t cache_bytes() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// A model that somebody else executes, such as a .pte in ExecuTorch: what decoding has to know of it.
struct ArtefactFacts {
  ModelConfig config;                // family, vocab_size, block_length and mask_token_id count
  std::int64_t max_tokens = 0;       // of prompt and text together
  std::int64_t max_step_tokens = 0;  // of one execution
  bool has_cache = false;            // it keeps keys and values from one execution to the next
};

// One execution: the tokens at the positions from `start` on, which see what the cache holds of the positions before
// `sees`, and each other under the model's mask. Without a cache `start` is 0.
struct ForwardStep {
  std::span<const std::int64_t> tokens;
  std::int64_t start = 0;
  std::int64_t sees = 0;
  std::span<const std::int64_t> rows;  // places in `tokens` whose logits are wanted, ascending; may be none
};
// Writes them, [rows, vocab_size]. What it throws ends the generation.
using StepFunction = std::function<void(const ForwardStep& step, std::span<float> logits)>;

// DiffusionEngine::generate() with the executions of an artefact. With an exact cache, passes that are too long for one
// are cut between blocks. Beside those of the engine, errors are kUnsupported for guidance, for a cache that the
// artefact has not, and kInvalidArgument for more tokens than an execution takes, where they can't be cut.
GenerationResult generate(const ArtefactFacts& artefact, const StepFunction& step, GenerationRequest request,
                          const GenerationCallback& callback = {}, const RunControl& control = {});

}  // namespace diffulex_edge
