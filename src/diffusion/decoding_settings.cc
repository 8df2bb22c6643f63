#include "diffusion/decoding_settings.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "diffulex_edge/error.h"
#include "models/logit_positions.h"
#include "runtime/diffusion_states.h"

namespace diffulex_edge {
namespace {

// What the authors' programs do where nothing is said.
constexpr std::int64_t kLladaBlock = 32;
constexpr std::int64_t kFastDllmV2SubBlock = 8;
constexpr double kSdarThreshold = 0.85;
constexpr double kCautiousThreshold = 0.95;  // of LLaDA 2 and Stable-DiffCoder
constexpr double kFastDllmV2Threshold = 1.0;
constexpr std::int64_t kPostSteps = 16;  // of LLaDA 2.1's editing
constexpr std::int64_t kMostWindow = 4096;
constexpr std::int64_t kWindow = 16;  // of WeDLM
constexpr double kWindowEntropy = 0.4;
constexpr double kWindowPenalty = 0.02;
constexpr std::int64_t kInitialMasks = 4;  // of DreamOn

[[noreturn]] void refuse(const std::string& option, const std::string& what, const std::string& advice = {}) {
  throw Error(ErrorCode::kInvalidArgument, option, what, advice);
}

void check_range(const std::string& option, double value, double least, double most) {
  if (std::isnan(value) || value < least || value > most) {
    const auto number = [](double x) {
      std::string text = std::to_string(x);
      text.erase(text.find_last_not_of('0') + 1);
      return text.ends_with('.') ? text.substr(0, text.size() - 1) : text;
    };
    refuse(option, number(value) + " is not " +
                       (std::isinf(most) ? number(least) + " or more" : "in " + number(least) + ".." + number(most)));
  }
}

constexpr std::int64_t kMost = 1 << 20;  // of steps and tokens of a block

void check_positive(const std::string& option, const std::optional<std::int64_t>& value) {
  if (value && (*value < 1 || *value > kMost)) {
    refuse(option, std::to_string(*value) + " is not in 1.." + std::to_string(kMost));
  }
}

void check_ranges(const DiffusionGenerationConfig& config) {
  constexpr double kAny = HUGE_VAL;
  check_positive("steps", config.steps);
  check_positive("steps_per_block", config.steps_per_block);
  check_positive("block_length", config.block_length);
  check_positive("sub_block_length", config.sub_block_length);
  check_range("threshold", config.threshold.value_or(0.0), 0.0, 1.0);
  check_range("factor", config.factor.value_or(0.0), 0.0, kAny);
  check_range("eb_threshold", config.eb_threshold, 0.0, kAny);
  check_range("temperature", config.temperature, 0.0, kAny);
  check_range("top_k", static_cast<double>(config.top_k), 0.0, kAny);
  check_range("top_p", config.top_p, 0.0, 1.0);
  check_range("min_p", config.min_p, 0.0, 1.0);
  check_range("repetition_penalty", config.repetition_penalty, 1e-6, kAny);
  check_range("eps", config.eps, 1e-9, 1.0);
  check_range("alg_temp", config.alg_temp, 0.0, kAny);
  check_range("cfg_scale", config.cfg_scale, 0.0, kAny);
  check_range("cache_refresh", static_cast<double>(config.cache_refresh), 0.0, kAny);
  check_range("editing_threshold", config.editing_threshold.value_or(0.0), 0.0, 1.0);
  check_range("max_post_steps", static_cast<double>(config.max_post_steps.value_or(0)), 0.0, double{kMost});
  check_positive("initial_masks", config.initial_masks);
  check_range("expand_budget", static_cast<double>(config.expand_budget.value_or(0)), 0.0, double{kMost});
  check_range("window_size", static_cast<double>(config.window_size.value_or(0)), 0.0, double{kMostWindow});
  check_range("entropy_threshold", config.entropy_threshold.value_or(0.0), 0.0, kAny);
  check_range("pos_penalty_factor", config.pos_penalty_factor.value_or(0.0), 0.0, kAny);
  if (config.max_post_steps && !config.editing_threshold) {
    refuse("max_post_steps", "is a part of editing", "give editing_threshold");
  }
  if (config.steps && config.steps_per_block) {
    refuse("steps", "is given beside steps_per_block", "give one of them");
  }
  if (config.threshold && config.factor) {
    refuse("threshold", "is given beside factor", "give one of them");
  }
}

// Token by token where the window has no mask.
std::optional<WindowSettings> window_settings(const ModelConfig& model, const DiffusionGenerationConfig& config) {
  const std::int64_t size = has_window(model) ? config.window_size.value_or(kWindow) : 0;
  if (size == 0) {
    if (config.entropy_threshold || config.pos_penalty_factor) {
      refuse("entropy_threshold", "and pos_penalty_factor are for windows", "leave them out, or give a window_size");
    }
    return std::nullopt;
  }
  return WindowSettings{.size = size,
                        .entropy_threshold = config.entropy_threshold.value_or(kWindowEntropy),
                        .penalty = config.pos_penalty_factor.value_or(kWindowPenalty)};
}

// Without an exact cache, Nemotron-Labs-Diffusion decodes as LLaDA does, all of whose tokens see one another.
DecoderKind decoder_kind(const ModelConfig& model, CacheKind cache) {
  if (is_autoregressive(model)) {
    return DecoderKind::kAutoregressive;
  }
  if (model.block_length == 0) {
    const bool is_exact = cache == CacheKind::AUTO || cache == CacheKind::EXACT;
    return has_causal_context(model) && is_exact ? DecoderKind::kCausalContext : DecoderKind::kBidirectional;
  }
  return predicts_next_position(model) ? DecoderKind::kFastDllmV2 : DecoderKind::kBlockCausal;
}

bool is_dream(const ModelConfig& model) { return model.block_length == 0 && predicts_next_position(model); }

Remasking default_remasking(const ModelConfig& model, DecoderKind decoder) {
  if (decoder == DecoderKind::kBlockCausal) {
    return Remasking::LOW_CONFIDENCE_DYNAMIC;
  }
  return is_dream(model) ? Remasking::ENTROPY : Remasking::LOW_CONFIDENCE;
}

// Of block-causal models, by their authors' programs.
double usual_threshold(const ModelConfig& model) {
  const bool is_cautious = model.family == "llada2_moe" || model.family == "stable_diffcoder";
  return is_cautious ? kCautiousThreshold : kSdarThreshold;
}

// What a strategy compares, and how it chooses.
void set_remasking(Remasking remasking, const ModelConfig& model, const DiffusionGenerationConfig& config,
                   DecodingSettings& settings) {
  SelectionRule& rule = settings.rule;
  rule.entropy_bound = config.eb_threshold;
  rule.alg_temp = config.alg_temp;
  switch (remasking) {
    case Remasking::LOW_CONFIDENCE:
    case Remasking::MASKGIT_PLUS:
    case Remasking::LOW_CONFIDENCE_STATIC:
      break;
    case Remasking::RANDOM:
      settings.sampler.confidence = Confidence::kRandom;
      break;
    case Remasking::ORIGIN:
      rule.selection = Selection::kEach;
      settings.schedule = Schedule::kTime;
      break;
    case Remasking::TOPK_MARGIN:
      settings.sampler.confidence = Confidence::kMargin;
      break;
    case Remasking::ENTROPY:
      settings.sampler.confidence = Confidence::kEntropy;
      break;
    case Remasking::SEQUENTIAL:
      rule.selection = Selection::kSequential;
      break;
    case Remasking::LOW_CONFIDENCE_DYNAMIC:
      rule.selection = Selection::kAboveThreshold;
      rule.threshold = config.threshold.value_or(usual_threshold(model));
      return;
    case Remasking::ENTROPY_BOUNDED:
      settings.sampler.wants_entropy = true;
      rule.selection = Selection::kEntropyBounded;
      break;
    case Remasking::P2:
      settings.masks_again = true;
      break;
  }
  if (config.threshold || config.factor) {
    if (rule.selection != Selection::kBest || settings.masks_again) {
      refuse("remasking", std::string(to_string(remasking)) + " has no threshold and no factor", "leave one out");
    }
    // Thresholds are of probabilities.
    settings.sampler.confidence = Confidence::kProbability;
    rule.selection = config.threshold ? Selection::kThreshold : Selection::kFactor;
    rule.threshold = config.threshold.value_or(0.0);
    rule.factor = config.factor.value_or(0.0);
  }
}

CacheKind cache_kind(DecoderKind decoder, const DiffusionGenerationConfig& config) {
  const bool is_bidirectional = decoder == DecoderKind::kBidirectional;
  CacheKind kind = config.cache;
  if (kind == CacheKind::AUTO) {
    kind = is_bidirectional ? CacheKind::NONE : CacheKind::EXACT;
  }
  const std::string name(to_string(kind));
  if (is_bidirectional && (kind == CacheKind::EXACT || kind == CacheKind::BLOCK)) {
    refuse("cache", name + " is for block-causal models; in this one every token changes all others",
           "take none, prefix or dual");
  }
  if (!is_bidirectional && (kind == CacheKind::PREFIX || kind == CacheKind::DUAL)) {
    refuse("cache", name + " is for bidirectional models; this one's finished blocks are kept exactly",
           "take exact or none");
  }
  if (kind == CacheKind::BLOCK && decoder != DecoderKind::kFastDllmV2) {
    refuse("cache", name + " is for Fast-dLLM v2", "take exact or none");
  }
  return kind;
}

void refuse_foreign(const DiffusionGenerationConfig& config, const ModelConfig& model, DecoderKind decoder) {
  const auto refuse_if = [&](bool is_given, const std::string& option, const std::string& whose) {
    if (is_given) {
      refuse(option, "is for " + whose + "; the model's family is " + model.family, "leave it out");
    }
  };
  const bool is_bidirectional = decoder == DecoderKind::kBidirectional;
  const bool has_own_blocks = !is_bidirectional && decoder != DecoderKind::kCausalContext;
  refuse_if(config.block_length && has_own_blocks && *config.block_length != model.block_length, "block_length",
            "bidirectional models, others were trained with theirs");
  refuse_if(config.sub_block_length && decoder != DecoderKind::kFastDllmV2, "sub_block_length", "Fast-dLLM v2");
  refuse_if(config.cfg_scale > 0.0 && !is_bidirectional, "cfg_scale", "bidirectional models");
  refuse_if(config.cache_refresh > 0 && !is_bidirectional, "cache_refresh", "bidirectional models");
  refuse_if(config.remasking && decoder == DecoderKind::kAutoregressive, "remasking", "diffusion models");
  refuse_if((config.threshold || config.factor) && decoder == DecoderKind::kAutoregressive, "threshold",
            "diffusion models");
  refuse_if((config.remasking || config.factor) && decoder == DecoderKind::kFastDllmV2, "remasking",
            "other models, this one commits by threshold");
  refuse_if(config.remasking == Remasking::P2 && !is_bidirectional, "remasking p2", "bidirectional models");
  refuse_if(config.editing_threshold && decoder != DecoderKind::kBlockCausal, "editing_threshold",
            "block-causal models, such as LLaDA 2.1");
  refuse_if(config.expand_id && !is_dream(model), "expand_id", "DreamOn");
  const bool is_window = config.window_size || config.entropy_threshold || config.pos_penalty_factor;
  refuse_if(is_window && !has_window(model), "window_size", "WeDLM");
}

// What contradicts p2: it chooses among all tokens of the answer, in each pass.
void check_p2(const DiffusionGenerationConfig& config, std::int64_t new_tokens, const DecodingSettings& settings) {
  if (config.block_length && *config.block_length < new_tokens) {
    refuse("block_length", "is for decoding block by block, and p2 decodes the answer as a whole", "leave it out");
  }
  if (settings.cache != CacheKind::NONE) {
    refuse("cache", std::string(to_string(settings.cache)) + " keeps what p2 may still change", "take none");
  }
}

EditingSettings editing_settings(const DiffusionGenerationConfig& config, double threshold,
                                 const DecodingSettings& settings) {
  if (settings.sampler.confidence != Confidence::kProbability) {
    refuse("editing_threshold", "compares probabilities, and this remasking something else",
           "take low_confidence_dynamic, low_confidence_static or sequential");
  }
  return {.threshold = threshold, .post_steps = config.max_post_steps.value_or(kPostSteps)};
}

ExpansionSettings expansion_settings(const DiffusionGenerationConfig& config, std::int64_t expand_token,
                                     std::int64_t vocab_size, const DecodingSettings& settings) {
  if (expand_token < 0 || expand_token >= vocab_size) {
    refuse("expand_id", std::to_string(expand_token) + " is not in the vocabulary of " + std::to_string(vocab_size));
  }
  if (expand_token == settings.mask_token) {
    refuse("expand_id", std::to_string(expand_token) + " is the mask token",
           "give the token that stands for two masks");
  }
  const auto refuse_if = [](bool is_given, const std::string& option) {
    if (is_given) {
      refuse(option, "is for a canvas of a fixed length: DreamOn writes one token in each pass",
             "leave it out, or decode at a fixed length");
    }
  };
  refuse_if(config.steps.has_value(), "steps");
  refuse_if(config.steps_per_block.has_value(), "steps_per_block");
  refuse_if(config.block_length.has_value(), "block_length");
  refuse_if(config.threshold.has_value(), "threshold");
  refuse_if(config.factor.has_value(), "factor");
  refuse_if(config.cfg_scale > 0.0, "cfg_scale");
  refuse_if(settings.cache != CacheKind::NONE, "cache");
  if (settings.rule.selection != Selection::kBest || settings.masks_again) {
    refuse("remasking", "does not say which single token is the best", "take entropy, maskgit_plus or topk_margin");
  }
  ExpansionSettings expansion{.expand_token = expand_token,
                              .delete_tokens = config.eos_ids,
                              .budget = config.expand_budget,
                              .deletes_to_right = config.pad_delete_to_right};
  if (config.ignore_eos) {
    expansion.delete_tokens.clear();
  }
  expansion.initial_masks = std::min(config.initial_masks.value_or(kInitialMasks), config.max_new_tokens);
  expansion.room = config.max_new_tokens - expansion.initial_masks;
  return expansion;
}

void refuse_parts_of_expansion(const DiffusionGenerationConfig& config) {
  const auto refuse_if = [](bool is_given, const std::string& option) {
    if (is_given) {
      refuse(option, "is for a canvas that grows, and there is no token that lets it",
             "leave it out, or give expand_id");
    }
  };
  refuse_if(config.initial_masks.has_value(), "initial_masks");
  refuse_if(config.expand_budget.has_value(), "expand_budget");
  refuse_if(config.pad_delete_to_right, "pad_delete_to_right");
}

}  // namespace

DecodingSettings decoding_settings(const ModelConfig& model, const DiffusionGenerationConfig& config,
                                   std::int64_t new_tokens) {
  if (new_tokens < 1) {
    refuse("max_new_tokens", std::to_string(config.max_new_tokens) + " leave nothing to write",
           "ask for 1 or more, or put mask tokens into the prompt");
  }
  check_ranges(config);
  DecodingSettings settings;
  settings.decoder = decoder_kind(model, config.cache);
  refuse_foreign(config, model, settings.decoder);
  const bool is_bidirectional = settings.decoder == DecoderKind::kBidirectional;
  const bool is_time_step = is_dream(model);
  settings.window = window_settings(model, config);
  settings.is_shifted = has_shifted_logits(model) && !settings.window;
  const bool has_masks = settings.decoder != DecoderKind::kAutoregressive || settings.window;
  settings.mask_token = has_masks ? mask_token(model) : -1;

  const bool is_whole = is_time_step || config.remasking == Remasking::P2;
  const std::int64_t usual_block = is_whole ? new_tokens : kLladaBlock;
  const bool has_any_blocks = is_bidirectional || settings.decoder == DecoderKind::kCausalContext;
  settings.block_length =
      has_any_blocks ? std::min(config.block_length.value_or(usual_block), new_tokens) : model.block_length;
  settings.sub_block_length = std::min(config.sub_block_length.value_or(kFastDllmV2SubBlock), settings.block_length);
  if (settings.decoder == DecoderKind::kFastDllmV2 && settings.block_length % settings.sub_block_length != 0) {
    refuse("sub_block_length", std::to_string(settings.sub_block_length) + " does not divide the block of " +
                                   std::to_string(settings.block_length));
  }
  const std::int64_t blocks = (new_tokens + settings.block_length - 1) / settings.block_length;
  settings.steps_per_block = config.steps_per_block.value_or(settings.block_length);
  if (config.steps) {
    if (*config.steps % blocks != 0) {
      refuse("steps",
             std::to_string(*config.steps) + " are not shared evenly by " + std::to_string(blocks) + " blocks of " +
                 std::to_string(settings.block_length),
             "take a multiple, or give steps_per_block");
    }
    settings.steps_per_block = *config.steps / blocks;
  }
  settings.eps = config.eps;
  if (is_time_step) {
    settings.schedule = Schedule::kTime;
  } else if (!has_any_blocks) {
    settings.schedule = Schedule::kEvenBlock;
  }

  SamplerSettings& sampler = settings.sampler;
  sampler.temperature = config.temperature;
  sampler.top_k = config.top_k;
  sampler.top_p = config.top_p;
  sampler.min_p = config.min_p;
  sampler.repetition_penalty = config.repetition_penalty;
  sampler.gumbel = has_any_blocks && !is_time_step;
  sampler.top_p_first = is_time_step;
  sampler.confidence_before_filters = settings.decoder == DecoderKind::kFastDllmV2;
  sampler.mask = settings.mask_token;
  sampler.wants_entropy = settings.window.has_value();
  sampler.temperature_last = settings.window.has_value();
  if (config.logits_eos_inf) {
    sampler.never = config.eos_ids;
  }
  if (config.confidence_eos_eot_inf) {
    sampler.last = config.eos_ids;
    if (config.eot_id) {
      sampler.last.push_back(*config.eot_id);
    }
  }
  if (settings.decoder == DecoderKind::kFastDllmV2) {
    settings.rule = {.selection = Selection::kAboveThreshold,
                     .threshold = config.threshold.value_or(kFastDllmV2Threshold)};
  } else {
    set_remasking(config.remasking.value_or(default_remasking(model, settings.decoder)), model, config, settings);
  }
  settings.cfg_scale = config.cfg_scale;
  settings.cache = cache_kind(settings.decoder, config);
  settings.has_share_limit = is_time_step && settings.rule.selection == Selection::kThreshold &&
                             (config.steps || config.steps_per_block) && settings.cache == CacheKind::NONE;
  settings.cache_refresh = config.cache_refresh;
  if (settings.masks_again) {
    check_p2(config, new_tokens, settings);
  }
  if (config.editing_threshold) {
    settings.editing = editing_settings(config, *config.editing_threshold, settings);
  }
  if (config.expand_id) {
    settings.expansion = expansion_settings(config, *config.expand_id, model.vocab_size, settings);
  } else {
    refuse_parts_of_expansion(config);
  }
  if (settings.cfg_scale > 0.0 && settings.cache != CacheKind::NONE) {
    refuse("cfg_scale", "needs every token in each pass", "take no cache");
  }
  return settings;
}

bool has_window(const ModelConfig& model) { return model.family == "wedlm"; }
bool has_causal_context(const ModelConfig& model) { return model.family == "nemotron_diffusion"; }

DiffusionGenerationConfig family_defaults(const ModelConfig& model) {
  DiffusionGenerationConfig config;
  const DecoderKind decoder = decoder_kind(model, CacheKind::AUTO);
  if (decoder == DecoderKind::kFastDllmV2) {
    config.sub_block_length = std::min(kFastDllmV2SubBlock, model.block_length);
    config.threshold = kFastDllmV2Threshold;
  } else if (decoder != DecoderKind::kAutoregressive) {
    config.remasking = default_remasking(model, decoder);
  }
  if (decoder == DecoderKind::kBlockCausal) {
    config.threshold = usual_threshold(model);
  }
  if (model.block_length == 0 && !is_dream(model)) {
    config.block_length = kLladaBlock;
  }
  return config;
}

std::int64_t tokens_behind(const ModelConfig& model, const DiffusionGenerationConfig& config) {
  const std::int64_t window = has_window(model) ? config.window_size.value_or(kWindow) : 0;
  return std::clamp(window, std::int64_t{1}, kMostWindow) - 1;  // whatever was asked for
}

GenerationRequest shortest_request(const ModelConfig& model, const DiffusionGenerationConfig& config,
                                   std::int64_t capacity) {
  GenerationRequest request{.prompt = {0}, .suffix = {}, .config = config};
  const std::int64_t room = capacity - 1 - tokens_behind(model, config);
  request.config.max_new_tokens = std::min(config.max_new_tokens, std::max<std::int64_t>(room, 1));
  return request;
}

}  // namespace diffulex_edge
