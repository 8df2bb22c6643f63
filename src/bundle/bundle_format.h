// What marks a generation.json.
#pragma once

#include <cstdint>
#include <string_view>

namespace diffulex_edge {

inline constexpr std::string_view kBundleFormat = "diffulex-edge bundle";
inline constexpr std::int64_t kBundleVersion = 2;  // the newest that this program reads
inline constexpr std::int64_t kPlainVersion = 1;   // of a bundle that has nothing newer

}  // namespace diffulex_edge
