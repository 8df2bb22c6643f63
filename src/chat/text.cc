#include "chat/text.h"

#include <utf8proc.h>

#include <algorithm>

#include "chat/failure.h"
#include "tokenizer/utf8.h"

namespace diffulex_edge::chat {
namespace {

bool strips(char32_t character, const std::optional<std::u32string>& characters) {
  return characters ? characters->find(character) != std::u32string::npos : is_space(character);
}

std::size_t skip_spaces(std::string_view text, std::size_t position) {
  while (position < text.size() && is_space(character_at(text, position))) {
    position += character_length(text[position]);
  }
  return position;
}

std::size_t skip_word(std::string_view text, std::size_t position) {
  while (position < text.size() && !is_space(character_at(text, position))) {
    position += character_length(text[position]);
  }
  return position;
}

std::vector<std::string> split_words(std::string_view text, std::int64_t most) {
  std::vector<std::string> words;
  for (std::size_t begin = skip_spaces(text, 0); begin < text.size();) {
    if (static_cast<std::int64_t>(words.size()) == most) {
      words.emplace_back(text.substr(begin));
      break;
    }
    const std::size_t end = skip_word(text, begin);
    words.emplace_back(text.substr(begin, end - begin));
    check_items(words.size());
    begin = skip_spaces(text, end);
  }
  return words;
}

std::vector<std::string> split_words_from_right(std::string_view text, std::int64_t most) {
  std::vector<std::string> words;
  for (std::string_view rest = strip(text, Side::kRight); !rest.empty(); rest = strip(rest, Side::kRight)) {
    if (static_cast<std::int64_t>(words.size()) == most) {
      words.emplace_back(rest);
      break;
    }
    std::size_t begin = rest.size();
    while (begin > 0 && !is_space(character_at(rest, previous_character(rest, begin)))) {
      begin = previous_character(rest, begin);
    }
    words.emplace_back(rest.substr(begin));
    check_items(words.size());
    rest = rest.substr(0, begin);
  }
  std::ranges::reverse(words);
  return words;
}

std::vector<std::string> split_from_right(std::string_view text, const std::string& separator, std::int64_t most) {
  std::vector<std::string> parts;
  while (static_cast<std::int64_t>(parts.size()) < most) {
    const std::size_t found = text.rfind(separator);
    if (found == std::string_view::npos) {
      break;
    }
    parts.emplace_back(text.substr(found + separator.size()));
    check_items(parts.size());
    text = text.substr(0, found);
  }
  parts.emplace_back(text);
  std::ranges::reverse(parts);
  return parts;
}

std::vector<std::string> split_from_left(std::string_view text, const std::string& separator, std::int64_t most) {
  std::vector<std::string> parts;
  while (static_cast<std::int64_t>(parts.size()) < most) {
    const std::size_t found = text.find(separator);
    if (found == std::string_view::npos) {
      break;
    }
    parts.emplace_back(text.substr(0, found));
    check_items(parts.size());
    text = text.substr(found + separator.size());
  }
  parts.emplace_back(text);
  return parts;
}

bool ends_line(char32_t character) {
  return (character >= 0xA && character <= 0xD) || (character >= 0x1C && character <= 0x1E) || character == 0x85 ||
         character == 0x2028 || character == 0x2029;
}

std::size_t line_end_length(std::string_view text, std::size_t position) {
  return text.substr(position, 2) == "\r\n" ? 2 : character_length(text[position]);
}

}  // namespace

std::u32string decode(std::string_view text) {
  std::u32string characters;
  characters.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); i += character_length(text[i])) {
    characters += character_at(text, i);
  }
  return characters;
}

std::string encode(std::u32string_view characters) {
  std::string text;
  for (const char32_t character : characters) {
    append_utf8(character, text);
  }
  check_text(text.size());
  return text;
}

std::int64_t length(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char byte) { return (static_cast<unsigned>(byte) & 0xC0U) != 0x80U; });
}

std::vector<Value> characters(std::string_view text) {
  check_items(static_cast<std::size_t>(length(text)));
  std::vector<Value> items;
  for (std::size_t i = 0; i < text.size(); i += character_length(text[i])) {
    items.push_back(Value::text(std::string(text.substr(i, character_length(text[i])))));
  }
  return items;
}

bool is_space(char32_t character) { return is_white_space(character) || (character >= 0x1C && character <= 0x1F); }

bool is_printable(char32_t character) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(character))) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    case UTF8PROC_CATEGORY_ZS:
      return character == U' ';
    default:
      return true;
  }
}

bool is_letter(char32_t character) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(character))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return true;
    default:
      return false;
  }
}

bool is_digit_letter(char32_t character) {
  // Superscripts and subscripts too.
  return utf8proc_category(static_cast<utf8proc_int32_t>(character)) == UTF8PROC_CATEGORY_ND || character == 0xB2 ||
         character == 0xB3 || character == 0xB9 || character == 0x2070 ||
         (character >= 0x2074 && character <= 0x2079) || (character >= 0x2080 && character <= 0x2089);
}

std::string_view strip(std::string_view text, Side side, const std::optional<std::string>& characters) {
  const std::optional<std::u32string> set = characters ? std::optional(decode(*characters)) : std::nullopt;
  if (side != Side::kRight) {
    std::size_t begin = 0;
    while (begin < text.size() && strips(character_at(text, begin), set)) {
      begin += character_length(text[begin]);
    }
    text.remove_prefix(begin);
  }
  if (side != Side::kLeft) {
    std::size_t end = text.size();
    while (end > 0 && strips(character_at(text, previous_character(text, end)), set)) {
      end = previous_character(text, end);
    }
    text = text.substr(0, end);
  }
  return text;
}

std::vector<std::string> split(std::string_view text, const std::optional<std::string>& separator, std::int64_t most,
                               Side from) {
  if (most < 0) {
    most = kAll;
  }
  if (!separator) {
    return from == Side::kLeft ? split_words(text, most) : split_words_from_right(text, most);
  }
  if (separator->empty()) {
    throw Failure("the separator of 'split' is empty");
  }
  return from == Side::kLeft ? split_from_left(text, *separator, most) : split_from_right(text, *separator, most);
}

std::vector<std::string> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string> lines;
  std::size_t begin = 0;
  for (std::size_t i = 0; i < text.size();) {
    if (!ends_line(character_at(text, i))) {
      i += character_length(text[i]);
      continue;
    }
    const std::size_t next = i + line_end_length(text, i);
    lines.emplace_back(text.substr(begin, (keep_ends ? next : i) - begin));
    check_items(lines.size());
    begin = i = next;
  }
  if (begin < text.size()) {
    lines.emplace_back(text.substr(begin));
  }
  return lines;
}

std::string replace(std::string_view text, std::string_view old, std::string_view by, std::int64_t most) {
  std::string result;
  std::size_t position = 0;
  for (std::int64_t count = 0; most < 0 || count < most; ++count) {
    const std::size_t found = text.find(old, position);
    if (found == std::string_view::npos) {
      break;
    }
    append(result, text.substr(position, found - position));
    append(result, by);
    position = found + old.size();
    if (old.empty()) {  // between all characters
      if (found == text.size()) {
        break;
      }
      append(result, text.substr(found, character_length(text[found])));
      position = found + character_length(text[found]);
    }
  }
  append(result, text.substr(std::min(position, text.size())));
  return result;
}

}  // namespace diffulex_edge::chat
