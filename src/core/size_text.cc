#include "core/size_text.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cmath>
#include <string_view>
#include <utility>

#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

constexpr std::array kUnits = {
    std::pair{std::string_view(""), 1.0},       std::pair{std::string_view("b"), 1.0},
    std::pair{std::string_view("k"), 1e3},      std::pair{std::string_view("kb"), 1e3},
    std::pair{std::string_view("kib"), 0x1p10}, std::pair{std::string_view("m"), 1e6},
    std::pair{std::string_view("mb"), 1e6},     std::pair{std::string_view("mib"), 0x1p20},
    std::pair{std::string_view("g"), 1e9},      std::pair{std::string_view("gb"), 1e9},
    std::pair{std::string_view("gib"), 0x1p30},
};
constexpr double kMost = 0x1p50;

}  // namespace

std::int64_t parse_size(const std::string& option, const std::string& text) {
  double number = 0.0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  std::string unit(rest, text.data() + text.size());
  std::erase(unit, ' ');
  std::ranges::transform(unit, unit.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const auto* found = std::ranges::find(kUnits, unit, [](const auto& entry) { return entry.first; });
  const double bytes = found == kUnits.end() ? 0.0 : number * found->second;
  if (error != std::errc() || !(bytes >= 1.0) || bytes > kMost) {
    throw Error(ErrorCode::kInvalidArgument, option, "'" + text + "' is not a size",
                "write bytes, or a number with kB, MB, GB, KiB, MiB or GiB, such as 120MB");
  }
  return static_cast<std::int64_t>(std::floor(bytes));
}

}  // namespace diffulex_edge
