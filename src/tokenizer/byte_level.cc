#include "tokenizer/byte_level.h"

#include <array>
#include <cstdint>

#include "tokenizer/utf8.h"

namespace diffulex_edge {
namespace {

constexpr char32_t kFirstSubstitute = 0x100;

constexpr bool stands_for_itself(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr auto kCharacters = [] {
  std::array<char32_t, 256> characters{};
  char32_t next = kFirstSubstitute;
  for (unsigned byte = 0; byte < characters.size(); ++byte) {
    characters[byte] = stands_for_itself(byte) ? byte : next++;
  }
  return characters;
}();

// 256: no byte.
constexpr auto kBytes = [] {
  std::array<std::uint16_t, 0x200> bytes{};
  bytes.fill(256);
  for (std::size_t byte = 0; byte < kCharacters.size(); ++byte) {
    bytes[kCharacters[byte]] = static_cast<std::uint16_t>(byte);
  }
  return bytes;
}();

}  // namespace

std::string to_byte_characters(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size() + bytes.size() / 4);
  for (const char byte : bytes) {
    append_utf8(kCharacters[static_cast<std::uint8_t>(byte)], text);
  }
  return text;
}

std::optional<std::string> from_byte_characters(std::string_view text) {
  std::string bytes;
  for (std::size_t i = 0; i < text.size(); i += character_length(text[i])) {
    const char32_t character = character_at(text, i);
    if (character >= kBytes.size() || kBytes[character] > 255) {
      return std::nullopt;
    }
    bytes += static_cast<char>(static_cast<std::uint8_t>(kBytes[character]));
  }
  return bytes;
}

}  // namespace diffulex_edge
