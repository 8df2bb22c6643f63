#include "chat/formats.h"

#include <array>
#include <cmath>
#include <cstdio>

#include "chat/failure.h"
#include "chat/operators.h"
#include "chat/printing.h"
#include "chat/text.h"

namespace diffulex_edge::chat {
namespace {

constexpr int kMostWidth = 1000;

// "%-5.2f": what stands between the percent sign and the letter.
struct Conversion {
  bool left = false;
  bool zeros = false;
  bool plus = false;
  bool space = false;
  int width = 0;
  int precision = -1;
  char letter = 0;
};

class PercentFormat {
 public:
  PercentFormat(std::string_view format, const Value& values) : rest_(format) {
    const auto tuple = values.if_list();
    single_ = tuple == nullptr || tuple->kind != ListKind::kTuple;
    // Python takes what has items for a mapping, which may have more values than places.
    mapping_ = values.if_dict() || values.is_undefined() || (single_ && tuple && tuple->kind != ListKind::kIterator);
    values_ = single_ ? std::vector<Value>{values} : tuple->items;
  }

  std::string apply() {
    std::string result;
    while (!rest_.empty()) {
      const std::size_t found = rest_.find('%');
      append(result, rest_.substr(0, found));
      if (found == std::string_view::npos) {
        break;
      }
      rest_.remove_prefix(found + 1);
      append(result, convert(read_conversion()));
    }
    if (used_ < values_.size() && !mapping_) {
      throw Failure("'%' has more values than places");
    }
    return result;
  }

 private:
  char take() {
    if (rest_.empty()) {
      throw Failure("a format ends after '%'");
    }
    const char letter = rest_.front();
    rest_.remove_prefix(1);
    return letter;
  }

  int read_number() {
    int number = 0;
    while (!rest_.empty() && rest_.front() >= '0' && rest_.front() <= '9' && number <= kMostWidth) {
      number = number * 10 + (take() - '0');
    }
    if (number > kMostWidth) {
      throw Failure("a format is wider than " + std::to_string(kMostWidth));
    }
    return number;
  }

  Conversion read_conversion() {
    Conversion conversion;
    for (bool flags = true; flags && !rest_.empty();) {
      switch (rest_.front()) {
        case '-':
          conversion.left = true;
          break;
        case '0':
          conversion.zeros = true;
          break;
        case '+':
          conversion.plus = true;
          break;
        case ' ':
          conversion.space = true;
          break;
        default:
          flags = false;
          continue;
      }
      take();
    }
    conversion.width = read_number();
    if (!rest_.empty() && rest_.front() == '.') {
      take();
      conversion.precision = read_number();
    }
    conversion.letter = take();
    return conversion;
  }

  Value next() {
    if (used_ == values_.size()) {
      throw Failure("'%' has fewer values than places");
    }
    return values_[used_++];
  }

  std::string convert(const Conversion& conversion) {
    switch (conversion.letter) {
      case '%':
        return "%";
      case 's':
        return padded(cut(to_text(next()), conversion), conversion);
      case 'r':
        return padded(cut(repr(next()), conversion), conversion);
      case 'd':
      case 'i':
        return integer(next(), conversion);
      case 'f':
        return fixed(next(), conversion);
      default:
        fail_unsupported(std::string("the format '%") + conversion.letter + "'");
    }
  }

  static std::string cut(const std::string& text, const Conversion& conversion) {
    return conversion.precision < 0 ? text
                                    : encode(decode(text).substr(0, static_cast<std::size_t>(conversion.precision)));
  }

  static std::string padded(const std::string& text, const Conversion& conversion) {
    const std::int64_t missing = conversion.width - length(text);
    const std::string spaces(static_cast<std::size_t>(std::max<std::int64_t>(missing, 0)), ' ');
    return conversion.left ? text + spaces : spaces + text;
  }

  static std::string signed_number(std::string digits, bool negative, const Conversion& conversion) {
    std::string sign = negative ? "-" : "";
    if (!negative && conversion.plus) {
      sign = "+";
    } else if (!negative && conversion.space) {
      sign = " ";
    }
    const auto width = static_cast<std::size_t>(conversion.width);
    if (conversion.zeros && !conversion.left && digits.size() + sign.size() < width) {
      digits.insert(0, width - digits.size() - sign.size(), '0');
    }
    return padded(sign + digits, conversion);
  }

  static std::string integer(const Value& value, const Conversion& conversion) {
    const auto number = value.if_number();
    if (!number || !std::isfinite(*number) || std::abs(*number) >= 9e18) {
      throw Failure("the format '%d' needs a number, not " + value.type_name());
    }
    const std::int64_t whole = value.if_integer().value_or(static_cast<std::int64_t>(*number));
    const bool negative = whole < 0;
    std::string digits = std::to_string(whole).substr(negative ? 1 : 0);
    const auto precision = static_cast<std::size_t>(std::max(conversion.precision, 0));
    if (digits.size() < precision) {
      digits.insert(0, precision - digits.size(), '0');
    }
    return signed_number(std::move(digits), negative, conversion);
  }

  static std::string fixed(const Value& value, const Conversion& conversion) {
    const auto number = value.if_number();
    if (!number || !std::isfinite(*number)) {
      throw Failure("the format '%f' needs a number, not " + value.type_name());
    }
    std::array<char, std::size_t{2} * kMostWidth> buffer{};
    const int precision = conversion.precision < 0 ? 6 : conversion.precision;
    std::snprintf(buffer.data(), buffer.size(), "%.*f", precision, std::abs(*number));
    return signed_number(buffer.data(), std::signbit(*number), conversion);
  }

  std::string_view rest_;
  std::vector<Value> values_;
  std::size_t used_ = 0;
  bool single_ = false;
  bool mapping_ = false;
};

bool is_position(std::string_view text) {
  return !text.empty() && text.size() < 6 && text.find_first_not_of("0123456789") == std::string_view::npos;
}

const Value& find_field(const std::string& name, std::size_t& automatic, const Arguments& arguments) {
  if (name.empty() || is_position(name)) {
    const std::size_t position = name.empty() ? automatic++ : std::stoul(name);
    if (position >= arguments.positional.size()) {
      throw Failure("'format' has fewer values than places");
    }
    return arguments.positional[position];
  }
  for (const auto& [given, value] : arguments.named) {
    if (given == name) {
      return value;
    }
  }
  if (name.find_first_of(".[!:{") != std::string::npos) {
    fail_unsupported("the format '{" + name + "}'");
  }
  throw Failure("'format' has no value for '" + name + "'");
}

}  // namespace

std::string percent_format(std::string_view format, const Value& values) {
  return PercentFormat(format, values).apply();
}

std::string brace_format(std::string_view format, const Arguments& arguments) {
  std::string result;
  std::size_t automatic = 0;
  for (std::size_t i = 0; i < format.size(); ++i) {
    const char letter = format[i];
    if (letter != '{' && letter != '}') {
      append(result, format.substr(i, 1));
    } else if (i + 1 < format.size() && format[i + 1] == letter) {
      append(result, format.substr(i++, 1));
    } else if (const std::size_t end = format.find('}', i); letter == '{' && end != std::string_view::npos) {
      append(result, to_text(find_field(std::string(format.substr(i + 1, end - i - 1)), automatic, arguments)));
      i = end;
    } else {
      throw Failure("a format has a single '" + std::string(1, letter) + "'");
    }
  }
  return result;
}

}  // namespace diffulex_edge::chat
