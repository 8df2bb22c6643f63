// Text as Python's str sees it: characters are code points. All texts are valid UTF-8.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "chat/limits.h"
#include "chat/value.h"

namespace diffulex_edge::chat {

constexpr std::int64_t kAll = std::numeric_limits<std::int64_t>::max();

std::u32string decode(std::string_view text);
std::string encode(std::u32string_view characters);

std::int64_t length(std::string_view text);
std::vector<Value> characters(std::string_view text);
bool is_space(char32_t character);  // by str.isspace
bool is_printable(char32_t character);
bool is_letter(char32_t character);        // by str.isalpha
bool is_digit_letter(char32_t character);  // by str.isdigit

enum class Side { kBoth, kLeft, kRight };
// Without `characters`, white space is stripped.
std::string_view strip(std::string_view text, Side side = Side::kBoth,
                       const std::optional<std::string>& characters = std::nullopt);

// At most `most` cuts, from the left or from the right. Without a separator, at runs of white space.
std::vector<std::string> split(std::string_view text, const std::optional<std::string>& separator,
                               std::int64_t most = kAll, Side from = Side::kLeft);
std::vector<std::string> split_lines(std::string_view text, bool keep_ends = false);
// The first `most` of them.
std::string replace(std::string_view text, std::string_view old, std::string_view by, std::int64_t most = kAll);

}  // namespace diffulex_edge::chat
