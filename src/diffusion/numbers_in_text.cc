#include "diffusion/numbers_in_text.h"

#include <charconv>
#include <string>

namespace diffulex_edge {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

bool is_digit_at(std::string_view text, std::size_t at) { return at < text.size() && is_digit(text[at]); }

// A number that begins with the digit or point at `begin`.
class NumberScan {
 public:
  NumberScan(std::string_view text, std::size_t begin) : text_(text), end_(begin) {
    while (is_digit_at(text_, end_) || (is_at(',') && end_ > begin && is_digit_at(text_, end_ + 1))) {
      take(!is_at(','));
    }
    if (is_at('.') && is_digit_at(text_, end_ + 1)) {
      take(true);
      take_digits();
    }
    if (is_at('e') || is_at('E')) {
      const bool has_sign = end_ + 1 < text_.size() && (text_[end_ + 1] == '-' || text_[end_ + 1] == '+');
      if (is_digit_at(text_, end_ + (has_sign ? 2 : 1))) {
        take(true);
        if (has_sign) {
          take(true);
        }
        take_digits();
      }
    }
  }

  std::size_t end() const { return end_; }
  std::optional<double> value() const {
    double value = 0.0;
    const std::from_chars_result result = std::from_chars(digits_.data(), digits_.data() + digits_.size(), value);
    return result.ec == std::errc() ? std::optional(value) : std::nullopt;
  }

 private:
  bool is_at(char c) const { return end_ < text_.size() && text_[end_] == c; }
  void take(bool keeps) {
    if (keeps) {
      digits_ += text_[end_];
    }
    ++end_;
  }
  void take_digits() {
    while (is_digit_at(text_, end_)) {
      take(true);
    }
  }

  std::string_view text_;
  std::size_t end_;
  std::string digits_;
};

bool is_negative(std::string_view text, std::size_t begin) {
  if (begin == 0 || text[begin - 1] != '-') {
    return false;
  }
  return begin == 1 || (!is_digit(text[begin - 2]) && !is_letter(text[begin - 2]));
}

}  // namespace

std::optional<double> last_number(std::string_view text) {
  std::optional<double> last;
  for (std::size_t i = 0; i < text.size();) {
    const bool begins = is_digit(text[i]) || (text[i] == '.' && is_digit_at(text, i + 1));
    if (!begins) {
      ++i;
      continue;
    }
    const NumberScan number(text, i);
    if (const std::optional<double> value = number.value()) {
      last = is_negative(text, i) ? -*value : *value;
    }
    i = number.end();
  }
  return last;
}

}  // namespace diffulex_edge
