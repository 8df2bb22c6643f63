// UTF-8 text: validity, characters, and the classes of characters that the components look at.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace diffulex_edge {

// The byte position of the first error, if there is one.
std::optional<std::size_t> invalid_utf8(std::string_view text);

// Puts U+FFFD for each maximal invalid piece, as the Unicode standard recommends (chapter 3.9).
std::string replace_invalid_utf8(std::string_view bytes);

// Bytes at the end that begin a character and are not all of it: those of one may yet follow.
std::size_t unfinished_bytes(std::string_view bytes);

void append_utf8(char32_t character, std::string& text);

// `text` is valid from here on.
char32_t character_at(std::string_view text, std::size_t position);
// Bytes of the character that begins with `lead`.
std::size_t character_length(char lead);
// Where the character that ends before `position` begins.
std::size_t previous_character(std::string_view text, std::size_t position);

std::size_t count_characters(std::string_view text);

bool is_white_space(char32_t character);
// A letter, mark, decimal digit or connector: \w of Unicode's regular expressions (UTS 18, annex C).
bool is_word_character(char32_t character);
// Of ASCII also its symbols, $ and + and such.
bool is_punctuation(char32_t character);
// A combining mark of any kind.
bool is_mark(char32_t character);

}  // namespace diffulex_edge
