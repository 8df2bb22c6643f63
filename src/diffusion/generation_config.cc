// Names of options' values, and the ids that end a text.

#include <algorithm>
#include <array>
#include <filesystem>
#include <utility>

#include "core/join.h"
#include "core/json.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/generation.h"
#include "diffulex_edge/tokenizer.h"

namespace diffulex_edge {
namespace {

using RemaskingName = std::pair<Remasking, std::string_view>;
constexpr std::array kRemaskingNames = {
    RemaskingName{Remasking::LOW_CONFIDENCE, "low_confidence"},
    RemaskingName{Remasking::RANDOM, "random"},
    RemaskingName{Remasking::ORIGIN, "origin"},
    RemaskingName{Remasking::MASKGIT_PLUS, "maskgit_plus"},
    RemaskingName{Remasking::TOPK_MARGIN, "topk_margin"},
    RemaskingName{Remasking::ENTROPY, "entropy"},
    RemaskingName{Remasking::SEQUENTIAL, "sequential"},
    RemaskingName{Remasking::LOW_CONFIDENCE_STATIC, "low_confidence_static"},
    RemaskingName{Remasking::LOW_CONFIDENCE_DYNAMIC, "low_confidence_dynamic"},
    RemaskingName{Remasking::ENTROPY_BOUNDED, "entropy_bounded"},
};

using CacheKindName = std::pair<CacheKind, std::string_view>;
constexpr std::array kCacheKindNames = {
    CacheKindName{CacheKind::AUTO, "auto"},   CacheKindName{CacheKind::NONE, "none"},
    CacheKindName{CacheKind::EXACT, "exact"}, CacheKindName{CacheKind::PREFIX, "prefix"},
    CacheKindName{CacheKind::DUAL, "dual"},   CacheKindName{CacheKind::BLOCK, "block"},
};

template <typename Names, typename Value>
std::string_view name_of(const Names& names, Value value) {
  return std::ranges::find(names, value, &Names::value_type::first)->second;
}

template <typename Names>
auto parse(const Names& names, const char* option, std::string_view text) {
  const auto found = std::ranges::find(names, text, &Names::value_type::second);
  if (found == names.end()) {
    throw Error(ErrorCode::kInvalidArgument, option,
                "'" + std::string(text) + "' is not one of " + join(names, ", ", &Names::value_type::second));
  }
  return found->first;
}

constexpr std::size_t kMaxBytes = std::size_t{32} << 20U;

std::optional<nlohmann::json> read_if_there(const std::filesystem::path& file) {
  std::error_code ignored;
  if (!std::filesystem::exists(file, ignored)) {
    return std::nullopt;
  }
  return read_json_file(file, kMaxBytes);
}

// "eos_token_id": a number or a list of them.
std::vector<std::int64_t> ids_in(const std::optional<nlohmann::json>& document) {
  std::vector<std::int64_t> ids;
  if (document && document->is_object() && document->contains("eos_token_id")) {
    const nlohmann::json& value = (*document)["eos_token_id"];
    for (const nlohmann::json& id : value.is_array() ? value : nlohmann::json::array({value})) {
      if (id.is_number_integer()) {
        ids.push_back(id.get<std::int64_t>());
      }
    }
  }
  return ids;
}

}  // namespace

std::string_view to_string(Remasking remasking) { return name_of(kRemaskingNames, remasking); }
Remasking parse_remasking(std::string_view text) { return parse(kRemaskingNames, "remasking", text); }
std::string_view to_string(CacheKind kind) { return name_of(kCacheKindNames, kind); }
CacheKind parse_cache_kind(std::string_view text) { return parse(kCacheKindNames, "cache", text); }

std::string_view to_string(Stopped stopped) {
  switch (stopped) {
    case Stopped::END:
      return "end";
    case Stopped::LENGTH:
      return "length";
    case Stopped::STOP:
      break;
  }
  return "stop";
}

double GenerationResult::tokens_per_forward() const {
  return forward_passes == 0 ? 0.0 : static_cast<double>(tokens.size()) / static_cast<double>(forward_passes);
}

double GenerationResult::tokens_per_second() const {
  return seconds > 0.0 ? static_cast<double>(tokens.size()) / seconds : 0.0;
}

std::vector<std::int64_t> find_eos_ids(const Model& model) {
  for (const char* file : {"generation_config.json", "config.json"}) {
    std::vector<std::int64_t> ids = ids_in(read_if_there(model.path / file));
    if (!ids.empty()) {
      return ids;
    }
  }
  const std::optional<nlohmann::json> tokenizer = read_if_there(model.path / "tokenizer_config.json");
  if (!tokenizer || !tokenizer->is_object() || !tokenizer->contains("eos_token")) {
    return {};
  }
  const nlohmann::json& token = (*tokenizer)["eos_token"];
  const nlohmann::json& text = token.is_object() && token.contains("content") ? token["content"] : token;
  std::error_code ignored;
  if (!text.is_string() || !std::filesystem::exists(model.path / "tokenizer.json", ignored)) {
    return {};
  }
  const std::optional<std::int64_t> id = Tokenizer(model.path).id_of(text.get<std::string>());
  return id ? std::vector{*id} : std::vector<std::int64_t>();
}

}  // namespace diffulex_edge
