// Names of options' values.

#include <algorithm>
#include <array>
#include <utility>

#include "core/join.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/generation.h"

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
    RemaskingName{Remasking::P2, "p2"},
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

}  // namespace diffulex_edge
