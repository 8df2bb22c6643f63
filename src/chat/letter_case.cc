#include "chat/letter_case.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <string>

#include "chat/text.h"

namespace diffulex_edge::chat {
namespace {

using Several = std::array<char32_t, 3>;

struct Expansion {
  char32_t character;
  Several title;  // ends with zeros
};

// Characters that become several in title case, by the Unicode standard (SpecialCasing.txt).
constexpr Expansion kTitles[] = {
    {0xDF, {0x53, 0x73}},
    {0x149, {0x2BC, 0x4E}},
    {0x1F0, {0x4A, 0x30C}},
    {0x390, {0x399, 0x308, 0x301}},
    {0x3B0, {0x3A5, 0x308, 0x301}},
    {0x587, {0x535, 0x582}},
    {0x1E96, {0x48, 0x331}},
    {0x1E97, {0x54, 0x308}},
    {0x1E98, {0x57, 0x30A}},
    {0x1E99, {0x59, 0x30A}},
    {0x1E9A, {0x41, 0x2BE}},
    {0x1F50, {0x3A5, 0x313}},
    {0x1F52, {0x3A5, 0x313, 0x300}},
    {0x1F54, {0x3A5, 0x313, 0x301}},
    {0x1F56, {0x3A5, 0x313, 0x342}},
    {0x1FB2, {0x1FBA, 0x345}},
    {0x1FB4, {0x386, 0x345}},
    {0x1FB6, {0x391, 0x342}},
    {0x1FB7, {0x391, 0x342, 0x345}},
    {0x1FC2, {0x1FCA, 0x345}},
    {0x1FC4, {0x389, 0x345}},
    {0x1FC6, {0x397, 0x342}},
    {0x1FC7, {0x397, 0x342, 0x345}},
    {0x1FD2, {0x399, 0x308, 0x300}},
    {0x1FD3, {0x399, 0x308, 0x301}},
    {0x1FD6, {0x399, 0x342}},
    {0x1FD7, {0x399, 0x308, 0x342}},
    {0x1FE2, {0x3A5, 0x308, 0x300}},
    {0x1FE3, {0x3A5, 0x308, 0x301}},
    {0x1FE4, {0x3A1, 0x313}},
    {0x1FE6, {0x3A5, 0x342}},
    {0x1FE7, {0x3A5, 0x308, 0x342}},
    {0x1FF2, {0x1FFA, 0x345}},
    {0x1FF4, {0x38F, 0x345}},
    {0x1FF6, {0x3A9, 0x342}},
    {0x1FF7, {0x3A9, 0x342, 0x345}},
    {0xFB00, {0x46, 0x66}},
    {0xFB01, {0x46, 0x69}},
    {0xFB02, {0x46, 0x6C}},
    {0xFB03, {0x46, 0x66, 0x69}},
    {0xFB04, {0x46, 0x66, 0x6C}},
    {0xFB05, {0x53, 0x74}},
    {0xFB06, {0x53, 0x74}},
    {0xFB13, {0x544, 0x576}},
    {0xFB14, {0x544, 0x565}},
    {0xFB15, {0x544, 0x56B}},
    {0xFB16, {0x54E, 0x576}},
    {0xFB17, {0x544, 0x56D}},
};

const Several* find_title(char32_t character) {
  const auto* const found = std::ranges::lower_bound(kTitles, character, {}, &Expansion::character);
  return found != std::end(kTitles) && found->character == character ? &found->title : nullptr;
}

char32_t simple(utf8proc_int32_t (*map)(utf8proc_int32_t), char32_t character) {
  return static_cast<char32_t>(map(static_cast<utf8proc_int32_t>(character)));
}

// The capital of a Greek vowel with an iota below, which is written beside it in capitals; 0 for other characters.
char32_t capital_before_iota(char32_t character) {
  if (character >= 0x1F80 && character <= 0x1FAF) {
    static constexpr std::array<char32_t, 3> kRows = {0x1F08, 0x1F28, 0x1F68};
    return kRows[(character - 0x1F80) / 16] + character % 8;
  }
  switch (character) {
    case 0x1FB3:
    case 0x1FBC:
      return 0x391;
    case 0x1FC3:
    case 0x1FCC:
      return 0x397;
    case 0x1FF3:
    case 0x1FFC:
      return 0x3A9;
    default:
      return 0;
  }
}

void append_upper(char32_t character, std::u32string& text) {
  if (const char32_t capital = capital_before_iota(character)) {
    text += capital;
    text += U'\u0399';
  } else if (const Several* title = find_title(character)) {
    for (std::size_t i = 0; i < title->size() && (*title)[i] != 0; ++i) {
      text += simple(utf8proc_toupper, (*title)[i]);
    }
  } else {
    text += simple(utf8proc_toupper, character);
  }
}

void append_title(char32_t character, std::u32string& text) {
  if (const Several* title = find_title(character)) {
    for (std::size_t i = 0; i < title->size() && (*title)[i] != 0; ++i) {
      text += (*title)[i];
    }
  } else {
    text += simple(utf8proc_totitle, character);
  }
}

// Marks, format characters, modifiers and word punctuation: what stands between the letters of a word.
bool is_ignored_by_case(char32_t character) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(character))) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
      return true;
    default:
      return std::u32string_view(
                 U"'.:\u00B7\u0387\u055F\u05F4\u2018\u2019\u2024\u2027\uFE13\uFE52\uFE55\uFF07"
                 U"\uFF0E\uFF1A")
                 .find(character) != std::u32string_view::npos;
  }
}

// Whether the capital sigma at `position` ends a word.
bool is_final_sigma(const std::u32string& text, std::size_t position) {
  std::size_t before = position;
  while (before > 0 && is_ignored_by_case(text[before - 1])) {
    --before;
  }
  std::size_t after = position + 1;
  while (after < text.size() && is_ignored_by_case(text[after])) {
    ++after;
  }
  return before > 0 && is_cased(text[before - 1]) && (after == text.size() || !is_cased(text[after]));
}

void append_lower(const std::u32string& text, std::size_t position, std::u32string& result) {
  const char32_t character = text[position];
  if (character == 0x130) {
    result += U"i\u0307";
  } else if (character == 0x3A3) {
    result += is_final_sigma(text, position) ? U'\u03C2' : U'\u03C3';
  } else {
    result += simple(utf8proc_tolower, character);
  }
}

}  // namespace

bool is_cased(char32_t character) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(character))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
      return true;
    default:
      return (character >= 0x2160 && character <= 0x217F) || (character >= 0x24B6 && character <= 0x24E9);
  }
}

std::string upper(std::string_view text) {
  std::u32string result;
  for (const char32_t character : decode(text)) {
    append_upper(character, result);
  }
  return encode(result);
}

std::string lower(std::string_view text) {
  const std::u32string characters = decode(text);
  std::u32string result;
  for (std::size_t i = 0; i < characters.size(); ++i) {
    append_lower(characters, i, result);
  }
  return encode(result);
}

std::string capitalize(std::string_view text) {
  const std::u32string characters = decode(text);
  std::u32string result;
  for (std::size_t i = 0; i < characters.size(); ++i) {
    if (i == 0) {
      append_title(characters[i], result);
    } else {
      append_lower(characters, i, result);
    }
  }
  return encode(result);
}

std::string title(std::string_view text) {
  const std::u32string characters = decode(text);
  std::u32string result;
  bool inside = false;
  for (std::size_t i = 0; i < characters.size(); ++i) {
    if (inside) {
      append_lower(characters, i, result);
    } else {
      append_title(characters[i], result);
    }
    inside = is_cased(characters[i]);
  }
  return encode(result);
}

std::string title_of_words(std::string_view text) {
  std::string result;
  std::u32string word;
  const auto flush = [&] {
    if (!word.empty()) {
      append(result, upper(encode(word.substr(0, 1))));
      append(result, lower(encode(word.substr(1))));
      word.clear();
    }
  };
  for (const char32_t character : decode(text)) {
    if (is_space(character) || std::u32string_view(U"-({[<").find(character) != std::u32string_view::npos) {
      flush();
      append(result, encode(std::u32string(1, character)));
    } else {
      word += character;
    }
  }
  flush();
  return result;
}

}  // namespace diffulex_edge::chat
