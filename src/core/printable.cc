#include "core/printable.h"

#include <array>
#include <cstdint>
#include <cstdio>

namespace diffulex_edge {
namespace {

struct Character {
  char32_t value = 0;
  std::size_t bytes = 0;  // 0 where the text is no UTF-8 here
};

// Table 3-7 of the Unicode standard: the shortest form only, no surrogates, at most U+10FFFF.
Character character_at(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  if (lead < 0x80) {
    return {.value = lead, .bytes = 1};
  }
  if (lead < 0xC2 || lead > 0xF4) {
    return {};
  }
  std::size_t bytes = 2;
  for (const unsigned longer : {0xE0U, 0xF0U}) {
    bytes += lead >= longer ? 1 : 0;
  }
  if (text.size() < bytes) {
    return {};
  }
  char32_t value = lead & (0xFFU >> (bytes + 1));
  for (std::size_t i = 1; i < bytes; ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if ((byte & 0xC0U) != 0x80U) {
      return {};
    }
    value = (value << 6U) | (byte & 0x3FU);
  }
  constexpr std::array<char32_t, 5> kLeast = {0, 0, 0x80, 0x800, 0x10000};
  const bool is_surrogate = value >= 0xD800 && value < 0xE000;
  return value < kLeast[bytes] || is_surrogate || value > 0x10FFFF ? Character{} : Character{value, bytes};
}

// Ends a line, or turns the direction of what follows.
bool is_formatting(char32_t value) {
  return value == 0x061C || value == 0x200E || value == 0x200F || (value >= 0x2028 && value <= 0x202E) ||
         (value >= 0x2066 && value <= 0x2069) || value == 0xFEFF;
}

std::string escaped_byte(char byte) {
  std::array<char, 8> buffer{};
  std::snprintf(buffer.data(), buffer.size(), "\\x%02X", static_cast<unsigned char>(byte));
  return buffer.data();
}

std::string escaped_character(char32_t value) {
  std::array<char, 12> buffer{};
  std::snprintf(buffer.data(), buffer.size(), "\\u%04X", static_cast<unsigned>(value));
  return buffer.data();
}

std::string convert(std::string_view text, std::size_t most, bool keeps_lines) {
  std::string result;
  std::size_t read = 0;
  while (!text.empty()) {
    const Character character = character_at(text);
    const std::size_t bytes = character.bytes == 0 ? 1 : character.bytes;
    if (bytes > most - read) {
      return result + "...";
    }
    const bool is_kept = keeps_lines && text[0] == '\n';
    const bool is_control = !is_kept && (character.value < 0x20 || character.value == 0x7F);
    if (character.bytes == 0 || is_control) {
      result += escaped_byte(text[0]);
    } else if ((character.value >= 0x80 && character.value < 0xA0) || is_formatting(character.value)) {
      result += escaped_character(character.value);
    } else {
      result += text.substr(0, bytes);
    }
    read += bytes;
    text.remove_prefix(bytes);
  }
  return result;
}

}  // namespace

std::string printable(std::string_view text, std::size_t most) { return convert(text, most, false); }

std::string printable_lines(std::string_view text) {
  return convert(text, std::numeric_limits<std::size_t>::max(), true);
}

}  // namespace diffulex_edge
