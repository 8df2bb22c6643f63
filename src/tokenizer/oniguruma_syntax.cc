#include "tokenizer/oniguruma_syntax.h"

#include <array>
#include <cstddef>
#include <string_view>
#include <utility>

#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

constexpr std::string_view kWord = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";
// Superscripts and fractions of Latin-1: outside of brackets, and only there, Oniguruma's \w has them too.
constexpr std::string_view kLatin1Numbers = R"(\xb2\xb3\xb9\xbc-\xbe)";
constexpr std::string_view kHexDigits = "0-9A-Fa-f";
constexpr std::string_view kPunctuation = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ ";

bool is_hex(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789abcdefABCDEF") == std::string_view::npos;
}

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& where) : pattern_(pattern), where_(where) {}

  std::string run() {
    while (position_ < pattern_.size()) {
      switch (pattern_[position_]) {
        case '\\':
          escape(false);
          break;
        case '[':
          character_class();
          break;
        case '(':
          group();
          break;
        case '{':
          repetition();
          break;
        default:
          copy(1);
      }
    }
    return std::move(result_);
  }

 private:
  std::string_view rest() const { return pattern_.substr(position_); }

  void copy(std::size_t length) { replace(length, pattern_.substr(position_, length)); }

  void replace(std::size_t length, std::string_view by) {
    result_ += by;
    position_ += length;
  }

  [[noreturn]] void refuse(std::string_view construct) const {
    throw Error(ErrorCode::kUnsupported, where_,
                "'" + std::string(construct) + "' in a regular expression is not supported");
  }

  void group() {
    if (rest().starts_with("(*")) {
      refuse("(*");
    }
    if (!rest().starts_with("(?")) {
      copy(1);
      return;
    }
    for (const std::string_view opening : {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?i:", "(?-i:"}) {
      if (rest().starts_with(opening)) {
        copy(opening.size());
        return;
      }
    }
    // Further inside, Oniguruma lets it bind the alternatives that follow.
    if (position_ == 0 && rest().starts_with("(?i)")) {
      copy(4);
      return;
    }
    refuse(rest().substr(0, 4));
  }

  void repetition() {
    const std::size_t end = rest().find('}');
    const std::string_view bounds = rest().substr(0, end == std::string_view::npos ? end : end + 1);
    const std::string_view inner = bounds.substr(1, bounds.size() - 2);
    const bool is_repetition = end != std::string_view::npos && !inner.empty() && inner.front() != ',' &&
                               inner.find_first_not_of("0123456789,") == std::string_view::npos;
    if (!is_repetition) {
      refuse(rest().substr(0, 8));
    }
    const char next = end + 1 < rest().size() ? rest()[end + 1] : '\0';
    // Oniguruma has no possessive or lazy forms of {n} and repeats once more instead.
    if (next == '+' || (next == '?' && inner.find(',') == std::string_view::npos)) {
      refuse(std::string(bounds) + next);
    }
    copy(bounds.size());
  }

  void character_class() {
    copy(1);
    if (rest().starts_with("^")) {
      copy(1);
    }
    if (rest().starts_with("]")) {
      refuse("[]");
    }
    while (true) {
      if (rest().empty()) {
        refuse("[");
      }
      const char character = rest().front();
      if (character == ']') {
        copy(1);
        return;
      }
      if (character == '\\') {
        escape(true);
      } else if (character == '[' || rest().starts_with("&&")) {
        refuse(rest().substr(0, 2));  // sets inside sets, intersections
      } else {
        copy(1);
      }
    }
  }

  void escape(bool in_class) {
    if (rest().size() < 2) {
      refuse("\\");
    }
    const char letter = rest()[1];
    if (kPunctuation.find(letter) != std::string_view::npos ||
        std::string_view("dDrntfa").find(letter) != std::string_view::npos) {
      copy(2);
      return;
    }
    switch (letter) {
      case 's':
        replace(2, R"(\p{White_Space})");
        return;
      case 'S':
        replace(2, R"(\P{White_Space})");
        return;
      case 'v':
        replace(2, R"(\x0b)");
        return;
      case 'w':
      case 'W':
        set(std::string(kWord).append(in_class ? "" : kLatin1Numbers), letter == 'W', in_class);
        return;
      case 'h':
      case 'H':
        set(kHexDigits, letter == 'H', in_class);
        return;
      case 'p':
      case 'P':
        property();
        return;
      case 'x':
      case 'u':
        code_point();
        return;
      case 'A':
      case 'z':
        if (!in_class) {
          copy(2);
          return;
        }
        break;
      default:
        break;
    }
    refuse(rest().substr(0, 2));
  }

  void set(std::string_view members, bool negated, bool in_class) {
    if (in_class && negated) {
      refuse(rest().substr(0, 2));
    }
    const std::string text(members);
    replace(2, in_class ? text : (negated ? "[^" : "[") + text + "]");
  }

  void property() {
    const std::size_t end = rest().find('}');
    if (!rest().substr(2).starts_with("{") || end == std::string_view::npos) {
      refuse(rest().substr(0, 3));
    }
    copy(end + 1);
  }

  // \xHH, \x{H...} and \uHHHH.
  void code_point() {
    std::string_view digits;
    std::size_t length = 0;
    if (rest().starts_with("\\x{")) {
      length = rest().find('}');
      digits = length == std::string_view::npos ? "" : rest().substr(3, length - 3);
      ++length;
    } else {
      length = rest()[1] == 'u' ? 6 : 4;
      digits = rest().size() < length ? "" : rest().substr(2, length - 2);
      // Oniguruma takes \x80 and above for single bytes of UTF-8.
      if (rest()[1] == 'x' && !digits.empty() && digits.front() > '7') {
        refuse(rest().substr(0, 4));
      }
    }
    if (!is_hex(digits) || digits.size() > 8) {
      refuse(rest().substr(0, 6));
    }
    replace(length, "\\x{" + std::string(digits) + "}");
  }

  std::string_view pattern_;
  const std::string& where_;
  std::size_t position_ = 0;
  std::string result_;
};

}  // namespace

std::string pcre2_pattern(const std::string& pattern, const std::string& where) {
  return Translator(pattern, where).run();
}

}  // namespace diffulex_edge
