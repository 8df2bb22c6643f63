#include "quant/expert_name.h"

#include <charconv>
#include <system_error>

namespace diffulex_edge {

std::optional<ExpertName> parse_expert_name(std::string_view layer) {
  constexpr std::string_view kGroup = ".experts";
  const std::size_t found = layer.find(std::string(kGroup) + ".");
  if (!layer.starts_with("layers.") || found == std::string_view::npos) {
    return std::nullopt;
  }
  ExpertName name{.group = std::string(layer.substr(0, found + kGroup.size()))};
  const std::string rest(layer.substr(name.group.size() + 1));
  const char* end = rest.data() + rest.size();
  const auto [stopped, error] = std::from_chars(rest.data(), end, name.number);
  if (error != std::errc() || stopped == end || *stopped != '.') {
    return std::nullopt;
  }
  name.role = std::string(stopped + 1, end);
  return name;
}

}  // namespace diffulex_edge
