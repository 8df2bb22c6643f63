#include "core/printable.h"

#include <utf8proc.h>

#include <array>
#include <cstdio>

namespace diffulex_edge {
namespace {

struct Character {
  char32_t value = 0;
  std::size_t bytes = 0;  // 0 where the text is no UTF-8 here
};

// The first one.
Character character_of(std::string_view text) {
  utf8proc_int32_t value = 0;
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  const utf8proc_ssize_t size = utf8proc_iterate(bytes, static_cast<utf8proc_ssize_t>(text.size()), &value);
  return size > 0 ? Character{static_cast<char32_t>(value), static_cast<std::size_t>(size)} : Character{};
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
    const Character character = character_of(text);
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
