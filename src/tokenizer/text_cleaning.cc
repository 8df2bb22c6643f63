#include "tokenizer/text_cleaning.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <optional>

#include "tokenizer/unicode_forms.h"
#include "tokenizer/utf8.h"

namespace diffulex_edge {
namespace {

struct CharacterRange {
  char32_t first = 0;
  char32_t last = 0;
};

template <std::size_t kCount>
bool is_in(const std::array<CharacterRange, kCount>& ranges, char32_t character) {
  return std::ranges::any_of(
      ranges, [&](const CharacterRange& range) { return character >= range.first && character <= range.last; });
}

// `change` gives what a character becomes, or nothing.
template <typename Change>
std::string map_characters(std::string_view text, Change change) {
  std::string result;
  result.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); i += character_length(text[i])) {
    if (const std::optional<char32_t> character = change(character_at(text, i))) {
      append_utf8(*character, result);
    }
  }
  return result;
}

utf8proc_category_t category_of(char32_t character) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(character));
}

bool is_control(char32_t character) {
  switch (category_of(character)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CO:
      return true;
    default:
      return false;
  }
}

}  // namespace

std::string clean_text(std::string_view text) {
  constexpr char32_t kReplacement = 0xFFFD;
  return map_characters(text, [](char32_t character) -> std::optional<char32_t> {
    const bool is_usual_space = character == '\t' || character == '\n' || character == '\r';
    if (!is_usual_space && (character == 0 || character == kReplacement || is_control(character))) {
      return std::nullopt;
    }
    return is_white_space(character) ? U' ' : character;
  });
}

std::string space_ideographs(std::string_view text) {
  // As BERT's authors list them.
  constexpr std::array<CharacterRange, 8> kIdeographs = {{{0x4E00, 0x9FFF},
                                                          {0x3400, 0x4DBF},
                                                          {0x20000, 0x2A6DF},
                                                          {0x2A700, 0x2B73F},
                                                          {0x2B740, 0x2B81F},
                                                          {0x2B920, 0x2CEAF},
                                                          {0xF900, 0xFAFF},
                                                          {0x2F800, 0x2FA1F}}};
  std::string result;
  result.reserve(text.size());
  for (std::size_t i = 0, length = 0; i < text.size(); i += length) {
    length = character_length(text[i]);
    const bool is_ideograph = is_in(kIdeographs, character_at(text, i));
    result += is_ideograph ? " " : "";
    result += text.substr(i, length);
    result += is_ideograph ? " " : "";
  }
  return result;
}

std::string strip_nonspacing_marks(std::string_view text) {
  return map_characters(to_normal_form(std::string(text), NormalForm::kNfd),
                        [](char32_t character) -> std::optional<char32_t> {
                          const bool is_stripped = category_of(character) == UTF8PROC_CATEGORY_MN;
                          return is_stripped ? std::nullopt : std::optional(character);
                        });
}

std::string strip_marks(std::string_view text) {
  return map_characters(text, [](char32_t character) -> std::optional<char32_t> {
    return is_mark(character) ? std::nullopt : std::optional(character);
  });
}

std::string clean_for_nmt(std::string_view text) {
  constexpr std::array<CharacterRange, 6> kRemoved = {
      {{0x01, 0x08}, {0x0B, 0x0B}, {0x0E, 0x1F}, {0x7F, 0x7F}, {0x8F, 0x8F}, {0x9F, 0x9F}}};
  constexpr std::array<CharacterRange, 8> kSpaces = {{{0x09, 0x0A},
                                                      {0x0C, 0x0D},
                                                      {0x1680, 0x1680},
                                                      {0x200B, 0x200F},
                                                      {0x2028, 0x2029},
                                                      {0x2581, 0x2581},
                                                      {0xFEFF, 0xFEFF},
                                                      {0xFFFD, 0xFFFD}}};
  return map_characters(text, [&](char32_t character) -> std::optional<char32_t> {
    if (is_in(kRemoved, character)) {
      return std::nullopt;
    }
    return is_in(kSpaces, character) ? U' ' : character;
  });
}

std::string strip_spaces(std::string_view text, bool left, bool right) {
  while (left && !text.empty() && is_white_space(character_at(text, 0))) {
    text.remove_prefix(character_length(text.front()));
  }
  while (right && !text.empty()) {
    const std::size_t last = previous_character(text, text.size());
    if (!is_white_space(character_at(text, last))) {
      break;
    }
    text = text.substr(0, last);
  }
  return std::string(text);
}

}  // namespace diffulex_edge
