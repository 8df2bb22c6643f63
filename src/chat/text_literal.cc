#include "chat/text_literal.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <limits>

#include "chat/failure.h"
#include "chat/text.h"
#include "core/parse_double.h"
#include "tokenizer/utf8.h"

namespace diffulex_edge::chat {
namespace {

int digit_of(char letter) {
  if (letter >= '0' && letter <= '9') {
    return letter - '0';
  }
  if (letter >= 'a' && letter <= 'z') {
    return letter - 'a' + 10;
  }
  return letter >= 'A' && letter <= 'Z' ? letter - 'A' + 10 : 99;
}

// Up to `most` digits at `position`, which is moved behind them.
char32_t read_digits(std::string_view text, std::size_t& position, int base, int most, int least) {
  char32_t value = 0;
  int count = 0;
  while (count < most && position < text.size() && digit_of(text[position]) < base) {
    value = value * static_cast<char32_t>(base) + static_cast<char32_t>(digit_of(text[position++]));
    ++count;
  }
  if (count < least || value > 0x10FFFF) {
    throw Failure("an escape in a text is not complete");
  }
  if (value >= 0xD800 && value <= 0xDFFF) {
    throw Failure("an escape in a text is half of a surrogate pair");
  }
  return value;
}

// Escapes of Python that stand for one character.
std::optional<char> simple_escape(char letter) {
  static constexpr std::string_view kLetters = "abfnrtv\\'\"";
  static constexpr std::string_view kMeanings = "\a\b\f\n\r\t\v\\'\"";
  const std::size_t found = kLetters.find(letter);
  return found == std::string_view::npos ? std::nullopt : std::optional(kMeanings[found]);
}

// The escape whose letter stands at `position`.
void append_escape(std::string_view text, std::size_t& position, std::string& result) {
  const char letter = text[position];
  if (const auto meaning = simple_escape(letter)) {
    result += *meaning;
    ++position;
    return;
  }
  switch (letter) {
    case '\n':
      ++position;
      return;
    case 'x':
      append_utf8(read_digits(text, ++position, 16, 2, 2), result);
      return;
    case 'u':
      append_utf8(read_digits(text, ++position, 16, 4, 4), result);
      return;
    case 'U':
      append_utf8(read_digits(text, ++position, 16, 8, 8), result);
      return;
    case 'N':
      fail_unsupported("a character by its name");
    default:
      break;
  }
  if (letter >= '0' && letter <= '7') {
    append_utf8(read_digits(text, position, 8, 3, 1), result);
    return;
  }
  result += '\\';
  if (static_cast<unsigned char>(letter) < 0x80) {
    return;
  }
  // Jinja escapes such a character before it reads the backslash in front of it as one for the escape's own.
  const char32_t character = character_at(text, position);
  std::array<char, 12> buffer{};
  if (character < 0x100) {
    std::snprintf(buffer.data(), buffer.size(), "x%02x", static_cast<unsigned>(character));
  } else if (character < 0x10000) {
    std::snprintf(buffer.data(), buffer.size(), "u%04x", static_cast<unsigned>(character));
  } else {
    std::snprintf(buffer.data(), buffer.size(), "U%08x", static_cast<unsigned>(character));
  }
  result += buffer.data();
  position += character_length(letter);
}

// Without white space around and underscores between digits; none where those stand elsewhere.
std::optional<std::string> plain_number(std::string_view text) {
  text = strip(text);
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      plain += text[i];
    } else if (i == 0 || i + 1 == text.size() || digit_of(text[i - 1]) == 99 || digit_of(text[i + 1]) == 99) {
      return std::nullopt;
    }
  }
  return plain.empty() ? std::nullopt : std::optional(plain);
}

}  // namespace

std::string unescape(std::string_view literal) {
  std::string result;
  for (std::size_t i = 0; i < literal.size();) {
    if (literal[i] != '\\') {
      result += literal[i++];
    } else {
      append_escape(literal, ++i, result);
    }
  }
  return result;
}

std::optional<double> parse_float(std::string_view text) {
  const auto plain = plain_number(text);
  if (!plain) {
    return std::nullopt;
  }
  std::string lower = *plain;
  std::ranges::transform(lower, lower.begin(), [](char letter) {
    return letter >= 'A' && letter <= 'Z' ? static_cast<char>(letter + 32) : letter;
  });
  if (lower.front() == '+') {
    lower.erase(0, 1);
  }
  // Python knows no nan(...).
  if (lower.empty() || lower.front() == '+' || lower.find('(') != std::string::npos) {
    return std::nullopt;
  }
  double value = 0;
  const char* end = lower.data() + lower.size();
  const auto [stop, error] = parse_double(lower.data(), end, value);
  if (error == std::errc::result_out_of_range) {
    const double limit = lower.find("e-") == std::string::npos ? std::numeric_limits<double>::infinity() : 0;
    return lower.front() == '-' ? -limit : limit;
  }
  return stop == end && error == std::errc() ? std::optional(value) : std::nullopt;
}

std::optional<std::int64_t> parse_integer(std::string_view text, int base) {
  auto plain = plain_number(text);
  if (!plain) {
    return std::nullopt;
  }
  const bool negative = plain->front() == '-';
  if (negative || plain->front() == '+') {
    plain->erase(0, 1);
  }
  if (base == 16 && (plain->starts_with("0x") || plain->starts_with("0X"))) {
    plain->erase(0, 2);
  }
  std::int64_t value = 0;
  if (plain->empty() || plain->front() == '-') {
    return std::nullopt;
  }
  const char* end = plain->data() + plain->size();
  const auto [stop, error] = std::from_chars(plain->data(), end, value, base);
  if (error == std::errc::result_out_of_range) {
    fail_unsupported("an integer of more than 64 bits");
  }
  return stop == end && error == std::errc() ? std::optional(negative ? -value : value) : std::nullopt;
}

}  // namespace diffulex_edge::chat
