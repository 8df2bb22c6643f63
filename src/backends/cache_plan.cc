#include "backends/cache_plan.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <string>
#include <utility>

#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

constexpr std::array<std::pair<std::string_view, DType>, 3> kDTypes = {
    {{"fp32", DType::kF32}, {"fp16", DType::kF16}, {"int8", DType::kI8}}};

constexpr std::int64_t kUsualStepTokens = 128;
// Of fixed sizes: for a prompt, and for a block of a model that has none.
constexpr std::int64_t kUsualPromptTokens = 64;
constexpr std::int64_t kUsualBlockTokens = 32;

std::vector<std::int64_t> distinct(std::vector<std::int64_t> sizes) {
  std::ranges::sort(sizes);
  const auto repeated = std::ranges::unique(sizes);
  sizes.erase(repeated.begin(), repeated.end());
  return sizes;
}

std::vector<std::int64_t> read_sizes(const std::vector<std::string>& texts) {
  std::vector<std::int64_t> sizes;
  for (const std::string& text : texts) {
    std::int64_t size = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), size);
    if (error != std::errc() || end != text.data() + text.size() || size < 1) {
      throw Error(ErrorCode::kInvalidArgument, "block tokens", "'" + text + "' is not a number of tokens",
                  "give one, or several with commas between them");
    }
    sizes.push_back(size);
  }
  return distinct(std::move(sizes));
}

std::vector<std::int64_t> usual_sizes(LengthSupport lengths, std::int64_t tokens, std::int64_t block_length) {
  const auto fitting = [&](std::int64_t size) { return std::min(std::max(size, block_length), tokens); };
  if (lengths == LengthSupport::kUpTo) {
    return {block_length == 0 ? tokens : fitting(kUsualStepTokens)};
  }
  return distinct(block_length == 0 ? std::vector{fitting(kUsualBlockTokens), tokens}
                                    : std::vector{fitting(block_length), fitting(kUsualPromptTokens)});
}

std::vector<std::int64_t> given_sizes(const OptionValues& options) {
  std::vector<std::int64_t> sizes = read_sizes(options.list("block_tokens"));
  if (options.description().lengths == LengthSupport::kUpTo && sizes.size() > 1) {
    throw Error(ErrorCode::kInvalidArgument, "block tokens", "a step has any number of tokens up to one",
                "give only the largest");
  }
  return sizes;
}

}  // namespace

std::string_view cache_kind(const CachePlan& plan) { return plan.is_bidirectional ? "approximate" : "exact"; }

std::string_view logits_name(const CachePlan& plan) { return kLogitsNames.at(static_cast<std::size_t>(plan.logits)); }

BackendOption cache_option() {
  return {.name = "cache",
          .type = BackendOption::Type::kCount,
          .help =
              "Keep keys and values of so many tokens, and compute the tokens of one step at a time (0: whole "
              "sequences)",
          .default_value = "0"};
}

BackendOption block_tokens_option(LengthSupport lengths) {
  return {.name = "block_tokens",
          .type = BackendOption::Type::kList,
          .help = lengths == LengthSupport::kUpTo
                      ? "With --cache: the most tokens of one step (default 128, or all of a bidirectional model's)"
                      : "With --cache: the numbers of tokens that a step may have, such as 4,64 (default: the model's "
                        "block and 64; 32 and all of a bidirectional model's)"};
}

std::optional<CachePlan> read_cache_plan(const OptionValues& options, const Model& model) {
  if (!options.has("cache")) {
    return std::nullopt;
  }
  const auto differs = [&](std::string_view name) { return options.has(name) && !options.is_default(name); };
  CachePlan plan{.tokens = options.count("cache"), .block_sizes = given_sizes(options)};
  if (plan.tokens == 0) {
    if (!plan.block_sizes.empty() || differs("cache_dtype") || differs("logits")) {
      throw Error(ErrorCode::kInvalidArgument, "cache", "is off: block tokens, cache dtype and logits go with it",
                  "give --cache TOKENS too");
    }
    return std::nullopt;
  }
  const ModelConfig& config = model.config;
  if (config.family.empty()) {
    throw Error(ErrorCode::kUnsupported, "cache", "is for language models from a checkpoint", "leave it out");
  }
  if (plan.tokens > config.max_positions) {
    throw Error(ErrorCode::kInvalidArgument, "cache",
                "of " + std::to_string(plan.tokens) + " tokens is longer than the model's context of " +
                    std::to_string(config.max_positions));
  }
  if (plan.block_sizes.empty()) {
    plan.block_sizes = usual_sizes(options.description().lengths, plan.tokens, config.block_length);
  }
  plan.block_tokens = plan.block_sizes.back();
  if (plan.block_tokens > plan.tokens || plan.block_tokens < config.block_length) {
    throw Error(ErrorCode::kInvalidArgument, "block tokens",
                std::to_string(plan.block_tokens) + " is not between the model's block of " +
                    std::to_string(std::max<std::int64_t>(config.block_length, 1)) + " and the cache's " +
                    std::to_string(plan.tokens));
  }
  if (options.has("cache_dtype")) {
    const auto name =
        std::ranges::find(kDTypes, options.text("cache_dtype"), &std::pair<std::string_view, DType>::first);
    plan.dtype = name == kDTypes.end() ? plan.dtype : name->second;  // a backend may have others
  }
  if (options.has("logits")) {
    const auto logits = std::ranges::find(kLogitsNames, options.text("logits"));
    plan.logits = static_cast<CachePlan::Logits>(logits - kLogitsNames.begin());
  }
  plan.is_bidirectional = config.block_length == 0;
  return plan;
}

}  // namespace diffulex_edge
