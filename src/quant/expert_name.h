// What the canonical name of a routed expert's layer says: "layers.3.experts.7.up_proj".
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace diffulex_edge {

struct ExpertName {
  std::string group;        // "layers.3.experts": all that one router chooses from
  std::int64_t number = 0;  // 7
  std::string role;         // "up_proj"
};

// nullopt for other layers, shared experts among them.
std::optional<ExpertName> parse_expert_name(std::string_view layer);

}  // namespace diffulex_edge
