#include "runtime/expert_coverage.h"

#include <algorithm>

#include "core/join.h"
#include "quant/expert_name.h"

namespace diffulex_edge {

std::int64_t least_tokens(std::int64_t columns) { return std::max<std::int64_t>(8, columns / 16); }

void ExpertCoverage::add(std::string_view layer, std::int64_t tokens, std::int64_t columns) {
  const auto name = parse_expert_name(layer);
  if (!name) {
    return;
  }
  Group& group = groups_[name->group];
  group.all.insert(name->number);
  if (tokens < least_tokens(columns)) {
    group.missed.emplace(name->number, tokens);
    missed_layers_.emplace(layer);
  }
}

std::vector<std::string> ExpertCoverage::warnings(std::string_view consequence) const {
  constexpr std::ptrdiff_t kMostNamed = 16;
  std::vector<std::string> result;
  for (const auto& [name, group] : groups_) {
    if (group.missed.empty()) {
      continue;
    }
    std::vector<std::string> experts;
    for (const auto& [number, tokens] : group.missed) {
      experts.push_back(std::to_string(number) + " (" + std::to_string(tokens) + ")");
    }
    const auto more = std::ssize(experts) - kMostNamed;
    if (more > 0) {
      experts.resize(kMostNamed);
      experts.push_back(std::to_string(more) + " more");
    }
    result.push_back(name + ": calibration hardly reached " + std::to_string(group.missed.size()) + " of " +
                     std::to_string(group.all.size()) + " experts, here with their tokens: " + join(experts, ", ") +
                     "; " + std::string(consequence));
  }
  return result;
}

}  // namespace diffulex_edge
