// A request's options with the family's defaults in place of what was not given: what decoders go by.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "diffulex_edge/generation.h"
#include "diffulex_edge/model.h"
#include "diffusion/remasking.h"
#include "diffusion/sampler.h"

namespace diffulex_edge {

// What each step's share follows from.
enum class Schedule : std::uint8_t {
  kEven,       // LLaDA: the block's masks, shared evenly over its steps
  kTime,       // Dream: time steps from 1 to eps
  kEvenBlock,  // SDAR: the block's length, shared evenly, however many of its tokens are masked
};

enum class DecoderKind : std::uint8_t { kBidirectional, kBlockCausal, kAutoregressive, kFastDllmV2, kCausalContext };

// LLaDA 2.1: placed tokens become others that are more probable than the threshold.
struct EditingSettings {
  double threshold = 0.0;
  std::int64_t post_steps = 0;  // passes of a block whose masks are gone, at most
};

// DreamOn: masks become two or none.
struct ExpansionSettings {
  std::int64_t expand_token = -1;
  std::vector<std::int64_t> delete_tokens;
  std::int64_t initial_masks = 0;      // new ones; 0: those of the prompt
  std::int64_t room = 0;               // tokens by which the canvas may become longer
  std::optional<std::int64_t> budget;  // masks that may be added; absent: twice what the longest has behind the prompt
  bool deletes_to_right = false;
};

// WeDLM
struct WindowSettings {
  std::int64_t size = 1;  // masks
  double entropy_threshold = 0.0;
  double penalty = 0.0;  // for each position behind the first mask, in nats
};

struct DecodingSettings {
  DecoderKind decoder = DecoderKind::kBidirectional;
  bool is_shifted = false;  // a token's logits are those of the position before it
  std::int64_t block_length = 1;
  std::int64_t sub_block_length = 1;
  std::int64_t steps_per_block = 1;
  Schedule schedule = Schedule::kEven;
  // Dream with a threshold, all tokens in one block: a step commits at most its even share and what earlier ones left.
  bool has_share_limit = false;
  double eps = 1e-3;
  SelectionRule rule;
  std::optional<EditingSettings> editing;
  std::optional<ExpansionSettings> expansion;
  std::optional<WindowSettings> window;
  bool masks_again = false;  // Open-dCoder's p2
  SamplerSettings sampler;
  double cfg_scale = 0.0;
  CacheKind cache = CacheKind::NONE;  // never AUTO
  std::int64_t cache_refresh = 0;
  std::int64_t mask_token = -1;  // -1: an autoregressive model has none
};

// `new_tokens` are those from the first to the last one that is written. Errors: kInvalidArgument for options that
// contradict each other, are out of range, or that the family does not have, and for a model without a mask token.
DecodingSettings decoding_settings(const ModelConfig& model, const DiffusionGenerationConfig& config,
                                   std::int64_t new_tokens);

// Whether the family's authors decode in a window (WeDLM).
bool has_window(const ModelConfig& model);
// Whether its authors' program computes what is written with a causal mask, though the model has none.
bool has_causal_context(const ModelConfig& model);

// The options by which the family's authors decode, where they don't depend on the text: asking for them changes
// nothing.
DiffusionGenerationConfig family_defaults(const ModelConfig& model);

// A request that fits into a cache of `capacity` tokens: what is refused of it is its options, before a real one comes.
GenerationRequest shortest_request(const ModelConfig& model, const DiffusionGenerationConfig& config,
                                   std::int64_t capacity);

// Tokens of the cache that a request takes behind its answer: masks of a window.
std::int64_t tokens_behind(const ModelConfig& model, const DiffusionGenerationConfig& config);

}  // namespace diffulex_edge
