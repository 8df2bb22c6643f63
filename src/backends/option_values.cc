#include "backends/option_values.h"

#include <charconv>

#include "diffulex_edge/error.h"

namespace diffulex_edge {

std::int64_t parse_count(const std::string& option, const std::string& text, std::int64_t least) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < least) {
    throw Error(ErrorCode::kInvalidArgument, option,
                "'" + text + "' is not a whole number of at least " + std::to_string(least));
  }
  return value;
}

bool parse_choice(const std::string& option, const std::string& text, std::string_view first, std::string_view second) {
  if (text != first && text != second) {
    throw Error(ErrorCode::kInvalidArgument, option,
                "'" + text + "' is neither " + std::string(first) + " nor " + std::string(second));
  }
  return text == second;
}

}  // namespace diffulex_edge
