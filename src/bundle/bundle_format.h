// What marks a generation.json.
#pragma once

#include <cstdint>
#include <string_view>

namespace diffulex_edge {

inline constexpr std::string_view kBundleFormat = "diffulex-edge bundle";
inline constexpr std::int64_t kBundleVersion = 1;

}  // namespace diffulex_edge
