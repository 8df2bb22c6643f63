#include "session/bundle_facts.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "backends/cache_plan.h"
#include "backends/option_values.h"
#include "diffulex_edge/error.h"
#include "models/logit_positions.h"
#include "models/special_tokens.h"

namespace diffulex_edge {
namespace {

// The lengths of whole sequences that an artefact without a cache takes; none: all up to the longest.
std::vector<std::int64_t> fixed_lengths(const Model& model, const BackendDescription& backend,
                                        const BackendConfig& config) {
  if (backend.lengths == LengthSupport::kUpTo) {
    return {};
  }
  if (!config.input_lengths) {
    return {model.seq_len};
  }
  return config.input_lengths->kind == InputLengths::Kind::kRange ? std::vector<std::int64_t>()
                                                                  : config.input_lengths->lengths;
}

std::optional<std::int64_t> token_of(const Model& model, std::optional<std::int64_t> id) {
  return id && *id >= 0 && *id < model.config.vocab_size ? id : std::nullopt;
}

}  // namespace

std::string artefact_name(const BackendDescription& backend, const BackendConfig& config) {
  const OptionValues options(backend, config.backend_options);
  const bool is_file = !backend.suffix.empty() && options.has("container") && options.text("container") == "pte";
  return "model" + (is_file ? std::string(".pte") : backend.suffix);
}

BundledModel bundle_facts(const Model& model, const BackendDescription& backend, const BackendConfig& config) {
  const OptionValues options(backend, config.backend_options);
  const std::optional<CachePlan> plan = read_cache_plan(options, model);
  BundledModel facts{.family = model.config.family,
                     .vocab_size = model.config.vocab_size,
                     .block_length = model.config.block_length,
                     .bos_id = token_of(model, find_bos_id(model)),
                     .has_shifted_logits = has_shifted_logits(model.config),
                     .max_tokens = model.seq_len,
                     .max_step_tokens = model.seq_len,
                     .tokenizer_sha256 = digest_of_document(model.path / "tokenizer.json").sha256};
  std::ranges::copy_if(find_eos_ids(model), std::back_inserter(facts.eos_ids),
                       [&](std::int64_t id) { return token_of(model, id).has_value(); });
  if (plan) {
    facts.max_tokens = plan->tokens;
    facts.max_step_tokens = plan->block_tokens;
    facts.cache = cache_kind(*plan);
    facts.logits = logits_name(*plan);
  }
  if (backend.lengths != LengthSupport::kUpTo) {
    facts.step_sizes = plan ? plan->block_sizes : fixed_lengths(model, backend, config);
  }
  if (is_autoregressive(model.config)) {
    return facts;
  }
  facts.mask_token_id = token_of(model, find_mask_token(model));
  if (!facts.mask_token_id) {
    throw Error(
        ErrorCode::kInvalidArgument, "mask token",
        "neither config.json nor the tokenizer's files say which token it is, and a bundle's runner has to know",
        "give --mask-token-id");
  }
  if (facts.logits == "last") {
    throw Error(ErrorCode::kInvalidArgument, "logits",
                "of last tokens only are not enough for a diffusion model's text, which a bundle is for",
                "leave out --logits last");
  }
  return facts;
}

}  // namespace diffulex_edge
