// What stands in quotes, and numbers that are written in a text.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace diffulex_edge::chat {

// The text that a literal without its quotes stands for; throws Failure for an escape that is none.
std::string unescape(std::string_view literal);

// As Python's float(text) and int(text, base): white space around, underscores between digits. None where it isn't one.
std::optional<double> parse_float(std::string_view text);
std::optional<std::int64_t> parse_integer(std::string_view text, int base = 10);

}  // namespace diffulex_edge::chat
