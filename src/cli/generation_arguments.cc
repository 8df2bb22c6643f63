#include "cli/generation_arguments.h"

#include <CLI/CLI.hpp>

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
                     "Dream), maskgit_plus, topk_margin or origin; low_confidence_dynamic (default of SDAR), "
                     "low_confidence_static, sequential or entropy_bounded");
  command.add_option("--threshold", config.threshold,
                     "Commit all tokens at least this probable, and always the best: fewer passes (default: SDAR 0.85, "
                     "Fast-dLLM v2 1, others none)");
  command.add_option(
      "--factor", config.factor,
      "Commit the n most probable tokens while the n-th has 1 - factor / (n + 1); not beside --threshold");
  command.add_option("--eb-threshold", config.eb_threshold, "entropy_bounded: the bound, in nats (default 0.35)");
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

DiffusionGenerationConfig GenerationArguments::parsed(const std::vector<std::int64_t>& eos_ids) const {
  DiffusionGenerationConfig result = config;
  if (remasking) {
    result.remasking = parse_remasking(*remasking);
  }
  result.cache = parse_cache_kind(cache);
  result.cache_dtype = parse_cache_dtype(cache_dtype);
  if (result.eos_ids.empty()) {
    result.eos_ids = eos_ids;
  }
  return result;
}

}  // namespace diffulex_edge::cli
