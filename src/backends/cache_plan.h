// A cache of keys and values in an artefact, as the options of a backend ask for it.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "backends/option_values.h"
#include "diffulex_edge/backend_description.h"
#include "diffulex_edge/dtype.h"
#include "diffulex_edge/model.h"

namespace diffulex_edge {

// An execution computes the tokens of one step, at the positions from a start on. They see each other and what the
// cache holds before them, under the model's mask; in a bidirectional model, all positions before a given end, of which
// those behind the step hold keys and values of an earlier one.
struct CachePlan {
  // Of which tokens of a step there are logits: of all, of the last one, or of those that an input names.
  enum class Logits { kAll, kLast, kRows };

  std::int64_t tokens = 0;  // that fit
  // Of one step: the most tokens, and the sizes that the artefact has, ascending, the last of which is that. A backend
  // that takes fewer tokens as they are has only the one.
  std::int64_t block_tokens = 0;
  std::vector<std::int64_t> block_sizes;
  // kF32, kF16, or kI8: each row of a head, that is one token's, as 127ths of its greatest magnitude, a float32 beside
  // it.
  DType dtype = DType::kF16;
  Logits logits = Logits::kAll;
  bool is_bidirectional = false;
};

// What the option --logits calls them, by CachePlan::Logits.
inline constexpr std::array<std::string_view, 3> kLogitsNames = {"all", "last", "rows"};

// What programs say of the cache's kind: "exact" for block-causal models, "approximate" for bidirectional ones.
std::string_view cache_kind(const CachePlan& plan);

// What it calls those of the plan.
std::string_view logits_name(const CachePlan& plan);

// The option `cache`, and `block_tokens` of a backend whose artefacts take such lengths: any number of tokens up to it,
// or only fixed ones.
BackendOption cache_option();
BackendOption block_tokens_option(LengthSupport lengths);

// From the options `cache`, `block_tokens`, and `cache_dtype` and `logits` where the description has them. nullopt
// where no cache is asked for, and for a backend without one. Throws Error{kInvalidArgument} for impossible sizes and
// for the others without `cache`, Error{kUnsupported} for a model that is no language model from a checkpoint.
std::optional<CachePlan> read_cache_plan(const OptionValues& options, const Model& model);

}  // namespace diffulex_edge
