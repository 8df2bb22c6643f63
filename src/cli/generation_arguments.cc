#include "cli/generation_arguments.h"

#include <CLI/CLI.hpp>

#include "diffulex_edge/error.h"

namespace diffulex_edge::cli {

void GenerationArguments::add_to(CLI::App& command) {
  add_without_seed_to(command);
  command.add_option("--seed", config.seed, "Of the random numbers (default 0)");
}

void GenerationArguments::add_without_seed_to(CLI::App& command) {
  command.add_option("--max-new-tokens", config.max_new_tokens, "Tokens to write, at most (default 128)");
  command.add_option("--steps", config.steps, "Steps of the whole answer (default: as many as tokens)");
  command.add_option("--steps-per-block", config.steps_per_block, "Steps of each block, in place of --steps");
  command.add_option("--sub-block-length", config.sub_block_length,
                     "Fast-dLLM v2: tokens decoded together (default 8)");
  command.add_option("--remasking", remasking,
                     "Which tokens a step commits: low_confidence (default of LLaDA) or random; entropy (default of "
                     "Dream), maskgit_plus, topk_margin, origin or p2; low_confidence_dynamic (default of SDAR), "
                     "low_confidence_static, sequential or entropy_bounded");
  command.add_option("--threshold", config.threshold,
                     "Commit all tokens at least this probable, and always the best: fewer passes (default: SDAR 0.85, "
                     "Fast-dLLM v2 1, others none)");
  command.add_option(
      "--factor", config.factor,
      "Commit the n most probable tokens while the n-th has 1 - factor / (n + 1); not beside --threshold");
  command.add_option("--eb-threshold", config.eb_threshold, "entropy_bounded: the bound, in nats (default 0.35)");
  command.add_option("--editing-threshold", config.editing_threshold,
                     "LLaDA 2.1: replace placed tokens of the block by others more probable than this (default: none)");
  command.add_option("--max-post-steps", config.max_post_steps,
                     "--editing-threshold: passes of a block after its last mask, at most (default 16)");
  command.add_option("--expand-id", config.expand_id,
                     "DreamOn: the token that stands for two masks (default: the model's)");
  command.add_option("--initial-masks", config.initial_masks,
                     "DreamOn: masks that the text begins with; it grows up to --max-new-tokens (default 4)");
  command.add_option("--expand-budget", config.expand_budget,
                     "DreamOn: masks that may be added (default: twice what fits behind the prompt)");
  command.add_flag("--pad-delete-to-right", config.pad_delete_to_right,
                   "DreamOn: where a mask is deleted, those behind it are as well");
  command.add_flag("--fixed-length", fixed_length, "DreamOn: decode --max-new-tokens masks, as Dream");
  command.add_option("--window-size", config.window_size,
                     "WeDLM: masks in a window behind what is written (default 16); 0: token by token");
  command.add_option("--entropy-threshold", config.entropy_threshold,
                     "WeDLM: commit all tokens of less entropy, in nats, and always the best (default 0.4)");
  command.add_option("--pos-penalty-factor", config.pos_penalty_factor,
                     "WeDLM: entropy added for each position behind the first mask (default 0.02)");
  command.add_option("--temperature", config.temperature, "0 (default): always the most probable token");
  command.add_option("--top-k", config.top_k, "Only the k most probable tokens; 0 (default): all");
  command.add_option("--top-p", config.top_p, "Only the most probable tokens that have p together (default 1)");
  command.add_option("--min-p", config.min_p, "Only tokens with p times the best one's probability (default 0)");
  command.add_option("--repetition-penalty", config.repetition_penalty,
                     "Divides the logits of tokens that are there already (default 1)");
  command.add_option("--eps", config.eps, "Dream: the last time step (default 0.001)");
  command.add_option("--alg-temp", config.alg_temp, "Dream: draw positions by confidence at this temperature");
  command.add_option("--cfg-scale", config.cfg_scale, "LLaDA: classifier-free guidance (default 0: none)");
  command.add_flag("--logits-eos-inf", config.logits_eos_inf, "LLaDA: never write an end token");
  command.add_flag("--confidence-eos-eot-inf", config.confidence_eos_eot_inf, "LLaDA: commit end tokens last");
  command.add_option("--eos-id", config.eos_ids, "A token that ends the text (repeatable; default: the model's)")
      ->allow_extra_args(false);
  command.add_option("--eot-id", config.eot_id, "LLaDA: the token that ends a turn");
  command.add_flag("--ignore-eos", config.ignore_eos, "Write all tokens, whatever they are");
  command.add_option("--cache", cache,
                     "What is kept of earlier passes: auto (default: exact where that is possible), none, exact; for "
                     "bidirectional models the approximations prefix and dual; for Fast-dLLM v2 block");
  command.add_option("--cache-refresh", config.cache_refresh,
                     "prefix and dual: compute everything again after so many passes of a block; 0 (default): never");
  command.add_option("--cache-dtype", cache_dtype, "Keys and values as fp32 (default), fp16 or int8");
}

DiffusionGenerationConfig GenerationArguments::parsed(const std::vector<std::int64_t>& eos_ids,
                                                      std::optional<std::int64_t> expand_id) const {
  DiffusionGenerationConfig result = config;
  if (remasking) {
    result.remasking = parse_remasking(*remasking);
  }
  result.cache = parse_cache_kind(cache);
  result.cache_dtype = parse_cache_dtype(cache_dtype);
  if (result.eos_ids.empty()) {
    result.eos_ids = eos_ids;
  }
  if (fixed_length && result.expand_id) {
    throw Error(ErrorCode::kInvalidArgument, "--expand-id", "is given beside --fixed-length", "give one of them");
  }
  if (!fixed_length && !result.expand_id) {
    result.expand_id = expand_id;
  }
  return result;
}

}  // namespace diffulex_edge::cli
