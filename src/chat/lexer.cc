#include "chat/lexer.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>

#include "chat/failure.h"
#include "chat/limits.h"
#include "chat/text.h"
#include "chat/text_literal.h"
#include "tokenizer/utf8.h"

namespace diffulex_edge::chat {
namespace {

bool is_digit(char letter) { return letter >= '0' && letter <= '9'; }

// Line ends become \n, and one at the end of the template goes.
std::string with_unix_lines(std::string_view text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\r') {
      result += '\n';
      i += i + 1 < text.size() && text[i + 1] == '\n' ? 1 : 0;
    } else {
      result += text[i];
    }
  }
  if (result.ends_with('\n')) {
    result.pop_back();
  }
  return result;
}

class Lexer {
 public:
  Lexer(std::string_view text, int& line) : text_(with_unix_lines(text)), line_(line) {}

  std::vector<Token> read() {
    while (position_ < text_.size()) {
      read_data();
    }
    add(TokenKind::kEnd);
    return std::move(tokens_);
  }

 private:
  void add(TokenKind kind, std::string text = {}) { tokens_.push_back({kind, line_, std::move(text), Value()}); }

  bool at(std::string_view wanted) const { return std::string_view(text_).substr(position_).starts_with(wanted); }

  void skip(std::size_t count) {
    line_ += static_cast<int>(std::count(text_.begin() + static_cast<std::ptrdiff_t>(position_),
                                         text_.begin() + static_cast<std::ptrdiff_t>(position_ + count), '\n'));
    position_ += count;
  }

  void skip_spaces_here() {
    while (position_ < text_.size() && is_space(character_at(text_, position_))) {
      skip(character_length(text_[position_]));
    }
  }

  // The text up to the next tag, and the tag.
  void read_data() {
    std::size_t begin = position_;
    do {
      begin = text_.find('{', begin);
      begin = begin == std::string::npos ? begin : begin + 1;
    } while (begin != std::string::npos &&
             (begin == text_.size() || std::string_view("{%#").find(text_[begin]) == std::string_view::npos));
    if (begin == std::string::npos) {
      add(TokenKind::kData, text_.substr(position_));
      skip(text_.size() - position_);
      return;
    }
    const char kind = text_[begin];
    const char sign = begin + 1 < text_.size() ? text_[begin + 1] : '\0';
    add_data(std::string_view(text_).substr(position_, begin - 1 - position_), sign, kind != '{');
    skip(begin + 1 - position_);
    skip(sign == '-' || sign == '+' ? 1 : 0);
    if (kind == '#') {
      read_comment();
    } else if (kind == '{') {
      read_tag(TokenKind::kPrintBegin, "}}", TokenKind::kPrintEnd);
    } else if (!read_raw()) {
      read_tag(TokenKind::kBlockBegin, "%}", TokenKind::kBlockEnd);
    }
    line_starting_ = text_[position_ - 1] == '\n';
  }

  // What stands before a tag that has `sign`.
  void add_data(std::string_view data, char sign, bool strips_line) {
    if (sign == '-') {
      data = strip(data, Side::kRight);
    } else if (sign != '+' && strips_line) {
      const std::size_t end = data.rfind('\n');
      const std::size_t line = end == std::string_view::npos ? 0 : end + 1;
      if ((line > 0 || line_starting_) && strip(data.substr(line)).empty()) {
        data = data.substr(0, line);
      }
    }
    if (!data.empty()) {
      add(TokenKind::kData, std::string(data));
    }
  }

  // Whether a tag ends here; then it is passed, with what it takes of the text behind it.
  bool read_end(std::string_view end, bool trims) {
    if (at("-" + std::string(end))) {
      skip(1 + end.size());
      skip_spaces_here();
      return true;
    }
    if (trims && at("+" + std::string(end))) {
      skip(1 + end.size());
      return true;
    }
    if (!at(end)) {
      return false;
    }
    skip(end.size());
    skip(trims && at("\n") ? 1 : 0);
    return true;
  }

  void read_comment() {
    while (position_ < text_.size()) {
      if (read_end("#}", true)) {
        return;
      }
      skip(1);
    }
    throw Failure("a comment has no end");
  }

  // {% raw %} up to {% endraw %}, if it begins here.
  bool read_raw() {
    const std::size_t position = position_;
    const int line = line_;
    if (!read_word("raw") || !read_end("%}", false)) {
      position_ = position;
      line_ = line;
      return false;
    }
    line_starting_ = text_[position_ - 1] == '\n';
    for (const std::size_t begin = position_; position_ < text_.size(); skip(1)) {
      if (!at("{%")) {
        continue;
      }
      const std::size_t end = position_;
      const int end_line = line_;
      skip(2);
      const char sign = at("-") || at("+") ? text_[position_] : '\0';
      skip(sign == '\0' ? 0 : 1);
      if (read_word("endraw") && read_end("%}", true)) {
        add_data(std::string_view(text_).substr(begin, end - begin), sign, true);
        return true;
      }
      position_ = end;
      line_ = end_line;
    }
    throw Failure("'raw' has no 'endraw'");
  }

  bool read_word(std::string_view word) {
    skip_spaces_here();
    if (!at(word)) {
      return false;
    }
    skip(word.size());
    skip_spaces_here();
    return true;
  }

  void read_tag(TokenKind begin_kind, std::string_view end, TokenKind end_kind) {
    add(begin_kind);
    brackets_.clear();
    while (true) {
      if (brackets_.empty() && read_end(end, end_kind == TokenKind::kBlockEnd)) {
        add(end_kind);
        return;
      }
      if (position_ == text_.size()) {
        throw Failure("a tag has no end");
      }
      if (is_space(character_at(text_, position_))) {
        skip(character_length(text_[position_]));
      } else {
        read_token();
      }
    }
  }

  void read_token() {
    const char letter = text_[position_];
    if (is_digit(letter)) {
      read_number();
    } else if (letter == '"' || letter == '\'') {
      read_text(letter);
    } else if (letter == '_' || is_word_character(character_at(text_, position_))) {
      std::size_t end = position_;
      while (end < text_.size() && is_word_character(character_at(text_, end))) {
        end += character_length(text_[end]);
      }
      add(TokenKind::kName, text_.substr(position_, end - position_));
      skip(end - position_);
    } else {
      read_operator();
    }
  }

  void read_text(char quote) {
    std::size_t end = position_ + 1;
    while (end < text_.size() && text_[end] != quote) {
      end += text_[end] == '\\' ? 2 : 1;
    }
    if (end >= text_.size()) {
      throw Failure("a text has no end");
    }
    add(TokenKind::kText, unescape(std::string_view(text_).substr(position_ + 1, end - position_ - 1)));
    skip(end + 1 - position_);
  }

  std::size_t digits_end(std::size_t begin) const {
    std::size_t end = begin;
    while (end < text_.size() && (is_digit(text_[end]) || (text_[end] == '_' && end > begin && end + 1 < text_.size() &&
                                                           is_digit(text_[end + 1])))) {
      ++end;
    }
    return end;
  }

  // The end of the fraction and the exponent of a float whose whole part ends at `end`.
  std::size_t float_end(std::size_t end) const {
    if (position_ > 0 && text_[position_ - 1] == '.') {  // x.1.2 takes items
      return end;
    }
    if (end < text_.size() && text_[end] == '.' && digits_end(end + 1) > end + 1) {
      end = digits_end(end + 1);
    }
    if (end < text_.size() && (text_[end] == 'e' || text_[end] == 'E')) {
      const std::size_t sign = end + 1 < text_.size() && (text_[end + 1] == '-' || text_[end + 1] == '+') ? 1 : 0;
      const std::size_t exponent = digits_end(end + 1 + sign);
      end = exponent > end + 1 + sign ? exponent : end;
    }
    return end;
  }

  void read_number() {
    const std::size_t whole = digits_end(position_);
    const std::size_t end = float_end(whole);
    std::string digits = text_.substr(position_, end - position_);
    std::erase(digits, '_');
    Token token{TokenKind::kNumber, line_, digits, Value()};
    if (end > whole) {
      token.number = Value(parse_float(digits).value_or(std::numeric_limits<double>::infinity()));
    } else if (digits.size() > 1 && digits.find_first_not_of('0') != std::string::npos && digits.front() == '0') {
      throw Failure("a number begins with 0");
    } else if (digits == "0" && end < text_.size() &&
               std::string_view("xXoObB").find(text_[end]) != std::string::npos) {
      fail_unsupported("a number that is not decimal");
    } else {
      std::int64_t value = 0;
      if (std::from_chars(digits.data(), digits.data() + digits.size(), value).ec != std::errc()) {
        fail_unsupported("an integer of more than 64 bits");
      }
      token.number = Value::integer(value);
    }
    tokens_.push_back(std::move(token));
    skip(end - position_);
  }

  void read_operator() {
    static constexpr std::string_view kOperators[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                                      "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                      ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    const auto* const found = std::ranges::find_if(kOperators, [&](std::string_view each) { return at(each); });
    if (found == std::end(kOperators)) {
      throw Failure("'" + text_.substr(position_, character_length(text_[position_])) + "' does not belong into a tag");
    }
    check_brackets(found->front());
    add(TokenKind::kOperator, std::string(*found));
    skip(found->size());
  }

  // A tag does not end inside of brackets.
  void check_brackets(char letter) {
    static constexpr std::string_view kOpen = "([{";
    static constexpr std::string_view kClose = ")]}";
    if (const std::size_t found = kOpen.find(letter); found != std::string_view::npos) {
      brackets_ += kClose[found];
    } else if (kClose.find(letter) != std::string_view::npos) {
      if (brackets_.empty() || brackets_.back() != letter) {
        throw Failure("'" + std::string(1, letter) + "' closes nothing");
      }
      brackets_.pop_back();
    }
  }

  std::string text_;
  int& line_;
  std::size_t position_ = 0;
  bool line_starting_ = true;
  std::string brackets_;  // that are open, as what closes them
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> read_tokens(std::string_view text, int& line) {
  line = 1;
  return Lexer(text, line).read();
}

}  // namespace diffulex_edge::chat
