#include "tokenizer/utf8.h"

#include <utf8proc.h>

#include <algorithm>

namespace diffulex_edge {
namespace {

struct Utf8Piece {
  std::size_t length = 0;
  bool valid = false;
};

std::uint8_t byte_at(std::string_view text, std::size_t position) { return static_cast<std::uint8_t>(text[position]); }

struct ByteRange {
  std::uint8_t low = 0x80;
  std::uint8_t high = 0xBF;
};

// No overlong forms, no surrogates, nothing beyond U+10FFFF.
ByteRange second_byte_range(std::uint8_t lead) {
  switch (lead) {
    case 0xE0:
      return {.low = 0xA0};
    case 0xED:
      return {.high = 0x9F};
    case 0xF0:
      return {.low = 0x90};
    case 0xF4:
      return {.high = 0x8F};
    default:
      return {};
  }
}

// The character at `position`, or the longest beginning of one (Unicode standard, table 3-7).
Utf8Piece piece_at(std::string_view text, std::size_t position) {
  const std::uint8_t lead = byte_at(text, position);
  if (lead < 0x80) {
    return {1, true};
  }
  if (lead < 0xC2 || lead > 0xF4) {
    return {1, false};
  }
  const std::size_t length = character_length(text[position]);
  for (std::size_t i = 1; i < length; ++i) {
    const auto [low, high] = i == 1 ? second_byte_range(lead) : ByteRange{};
    if (position + i >= text.size() || byte_at(text, position + i) < low || byte_at(text, position + i) > high) {
      return {i, false};
    }
  }
  return {length, true};
}

bool within(char32_t character, char32_t first, char32_t last) { return character >= first && character <= last; }

}  // namespace

std::optional<std::size_t> invalid_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const Utf8Piece piece = piece_at(text, i);
    if (!piece.valid) {
      return i;
    }
    i += piece.length;
  }
  return std::nullopt;
}

std::string replace_invalid_utf8(std::string_view bytes) {
  std::string result;
  for (std::size_t i = 0; i < bytes.size();) {
    const Utf8Piece piece = piece_at(bytes, i);
    result += piece.valid ? bytes.substr(i, piece.length) : "\xEF\xBF\xBD";
    i += piece.length;
  }
  return result;
}

std::size_t unfinished_bytes(std::string_view bytes) {
  constexpr std::size_t kMost = 3;
  for (std::size_t length = std::min(bytes.size(), kMost); length > 0; --length) {
    const std::size_t begin = bytes.size() - length;
    const bool begins_character = byte_at(bytes, begin) >= 0xC2 && byte_at(bytes, begin) <= 0xF4;
    const Utf8Piece piece = piece_at(bytes, begin);
    if (begins_character && !piece.valid && piece.length == length) {
      return length;
    }
  }
  return 0;
}

void append_utf8(char32_t character, std::string& text) {
  const auto put = [&](char32_t bits) { text += static_cast<char>(static_cast<std::uint8_t>(bits)); };
  if (character < 0x80) {
    put(character);
  } else if (character < 0x800) {
    put(0xC0U | (character >> 6U));
    put(0x80U | (character & 0x3FU));
  } else if (character < 0x10000) {
    put(0xE0U | (character >> 12U));
    put(0x80U | ((character >> 6U) & 0x3FU));
    put(0x80U | (character & 0x3FU));
  } else {
    put(0xF0U | (character >> 18U));
    put(0x80U | ((character >> 12U) & 0x3FU));
    put(0x80U | ((character >> 6U) & 0x3FU));
    put(0x80U | (character & 0x3FU));
  }
}

std::size_t character_length(char lead) {
  const auto byte = static_cast<std::uint8_t>(lead);
  if (byte < 0xC0) {
    return 1;
  }
  if (byte < 0xE0) {
    return 2;
  }
  return byte < 0xF0 ? 3 : 4;
}

char32_t character_at(std::string_view text, std::size_t position) {
  const std::size_t length = character_length(text[position]);
  if (length == 1) {
    return byte_at(text, position);
  }
  char32_t character = byte_at(text, position) & (0x7FU >> length);
  for (std::size_t i = 1; i < length; ++i) {
    character = (character << 6U) | (byte_at(text, position + i) & 0x3FU);
  }
  return character;
}

std::size_t previous_character(std::string_view text, std::size_t position) {
  --position;
  while (position > 0 && (byte_at(text, position) & 0xC0U) == 0x80U) {
    --position;
  }
  return position;
}

std::size_t count_characters(std::string_view text) {
  return static_cast<std::size_t>(
      std::ranges::count_if(text, [](char byte) { return (static_cast<std::uint8_t>(byte) & 0xC0U) != 0x80U; }));
}

bool is_white_space(char32_t character) {
  return within(character, 0x9, 0xD) || character == 0x20 || character == 0x85 || character == 0xA0 ||
         character == 0x1680 || within(character, 0x2000, 0x200A) || character == 0x2028 || character == 0x2029 ||
         character == 0x202F || character == 0x205F || character == 0x3000;
}

bool is_word_character(char32_t character) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(character))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      break;
  }
  // Join_Control, and the symbols that count as alphabetic: letters in circles and squares.
  return within(character, 0x200C, 0x200D) || within(character, 0x24B6, 0x24E9) ||
         within(character, 0x1F130, 0x1F149) || within(character, 0x1F150, 0x1F169) ||
         within(character, 0x1F170, 0x1F189);
}

bool is_punctuation(char32_t character) {
  if (character < 0x80) {
    return within(character, '!', '/') || within(character, ':', '@') || within(character, '[', '`') ||
           within(character, '{', '~');
  }
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(character))) {
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO:
      return true;
    default:
      return false;
  }
}

bool is_mark(char32_t character) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(character))) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
      return true;
    default:
      return false;
  }
}

}  // namespace diffulex_edge
