#include "chat/printing.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "chat/failure.h"
#include "chat/operators.h"
#include "chat/sorting.h"
#include "chat/text.h"

namespace diffulex_edge::chat {
namespace {

// The shortest digits that give the number again, and the exponent of the first: 1.5e+10 is "15" and 10.
struct Decimal {
  std::string digits;
  int exponent = 0;
};

Decimal shortest_decimal(double magnitude) {
  std::array<char, 40> buffer{};
  const auto end =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), magnitude, std::chars_format::scientific).ptr;
  const std::string text(buffer.data(), end);
  const std::size_t mark = text.find('e');
  Decimal decimal{text.substr(0, mark), std::stoi(text.substr(mark + 1))};
  std::erase(decimal.digits, '.');
  return decimal;
}

std::string fixed_text(const Decimal& decimal) {
  const auto [digits, exponent] = decimal;
  if (exponent < 0) {
    return "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  }
  const auto whole = static_cast<std::size_t>(exponent) + 1;
  if (digits.size() <= whole) {
    return digits + std::string(whole - digits.size(), '0') + ".0";
  }
  return digits.substr(0, whole) + "." + digits.substr(whole);
}

std::string scientific_text(const Decimal& decimal) {
  const auto [digits, exponent] = decimal;
  const std::string fraction = digits.size() > 1 ? "." + digits.substr(1) : "";
  const std::string power = std::to_string(std::abs(exponent));
  return digits.substr(0, 1) + fraction + (exponent < 0 ? "e-" : "e+") + (power.size() < 2 ? "0" : "") + power;
}

std::string hexadecimal(char32_t value, int digits) {
  std::array<char, 12> buffer{};
  std::snprintf(buffer.data(), buffer.size(), "%0*x", digits, static_cast<unsigned>(value));
  return buffer.data();
}

std::string escaped(char32_t character) {
  switch (character) {
    case U'\n':
      return "\\n";
    case U'\r':
      return "\\r";
    case U'\t':
      return "\\t";
    case U'\\':
      return "\\\\";
    default:
      break;
  }
  if (is_printable(character)) {
    return encode(std::u32string_view(&character, 1));
  }
  if (character < 0x100) {
    return "\\x" + hexadecimal(character, 2);
  }
  return character < 0x10000 ? "\\u" + hexadecimal(character, 4) : "\\U" + hexadecimal(character, 8);
}

std::string quoted(const std::string& text) {
  const bool doubled = text.find('\'') != std::string::npos && text.find('"') == std::string::npos;
  const char32_t quote = doubled ? U'"' : U'\'';
  std::string result(1, static_cast<char>(quote));
  for (const char32_t character : decode(text)) {
    append(result, character == quote ? "\\" + std::string(1, static_cast<char>(quote)) : escaped(character));
  }
  return result + static_cast<char>(quote);
}

std::string repr_of_items(const std::vector<Value>& items, const char* open, const char* close) {
  std::string text = open;
  for (std::size_t i = 0; i < items.size(); ++i) {
    append(text, i == 0 ? "" : ", ");
    append(text, repr(items[i]));
  }
  return text + close;
}

std::string repr_of_list(const List& list) {
  switch (list.kind) {
    case ListKind::kList:
      return repr_of_items(list.items, "[", "]");
    case ListKind::kTuple:
      return repr_of_items(list.items, "(", list.items.size() == 1 ? ",)" : ")");
    case ListKind::kRange:
      return list.name;
    case ListKind::kView:
      return list.name + repr_of_items(list.items, "([", "])");
    case ListKind::kIterator:
      break;
  }
  fail_unsupported("the text of a generator");
}

std::string repr_of_dict(const Dict& dict) {
  std::string text = "{";
  for (const auto& [key, value] : dict.items) {
    append(text, text.size() == 1 ? "" : ", ");
    append(text, repr(key));
    append(text, ": ");
    append(text, repr(value));
  }
  return text + "}";
}

std::string json_text(const std::string& text, bool ascii) {
  std::string result = "\"";
  for (const char32_t character : decode(text)) {
    static constexpr std::u32string_view kSpecial = U"\"\\\n\r\t\f\b";
    static constexpr std::string_view kNames = "\"\\nrtfb";
    if (const std::size_t found = kSpecial.find(character); found != std::u32string_view::npos) {
      append(result, std::string("\\") + kNames[found]);
    } else if (character >= 0x10000 && ascii) {
      append(result, "\\u" + hexadecimal(0xD7C0 + (character >> 10U), 4) + "\\u" +
                         hexadecimal(0xDC00 + (character & 0x3FFU), 4));
    } else if (character < 0x20 || (ascii && character >= 0x7F)) {
      append(result, "\\u" + hexadecimal(character, 4));
    } else {
      append(result, encode(std::u32string_view(&character, 1)));
    }
  }
  return result + "\"";
}

std::string json_float(double value) {
  if (std::isnan(value)) {
    return "NaN";
  }
  if (std::isinf(value)) {
    return value < 0 ? "-Infinity" : "Infinity";
  }
  return float_text(value);
}

std::string json_scalar(const Value& value) {
  if (value.is_none()) {
    return "null";
  }
  if (value.is_bool()) {
    return value.truth() ? "true" : "false";
  }
  if (value.is_float()) {
    return json_float(value.number());
  }
  if (const auto integer = value.if_integer()) {
    return std::to_string(*integer);
  }
  throw Failure("a value of type " + value.type_name() + " can't be written as JSON");
}

class JsonWriter {
 public:
  explicit JsonWriter(const JsonStyle& style) : style_(style) {}

  void write(const Value& value) {
    const auto list = value.if_list();
    if (list && (list->kind == ListKind::kList || list->kind == ListKind::kTuple)) {
      write_list(*list);
    } else if (const auto dict = value.if_dict()) {
      write_dict(*dict);
    } else if (const std::string* bytes = value.if_text()) {
      append(text, json_text(*bytes, style_.ascii));
    } else {
      append(text, json_scalar(value));
    }
  }

  std::string text;

 private:
  void new_line() {
    if (style_.indent) {
      append(text, "\n");
      for (int i = 0; i < level_; ++i) {
        append(text, *style_.indent);
      }
    }
  }

  void next_item(bool first) {
    if (!first) {
      append(text, style_.item_separator);
    }
    new_line();
  }

  void write_list(const List& list) {
    append(text, "[");
    ++level_;
    for (std::size_t i = 0; i < list.items.size(); ++i) {
      next_item(i == 0);
      write(list.items[i]);
    }
    close(list.items.empty(), "]");
  }

  void write_dict(const Dict& dict) {
    append(text, "{");
    ++level_;
    const auto before = [&](std::size_t left, std::size_t right) {
      return style_.sort_keys && less(dict.items[left].first, dict.items[right].first);
    };
    bool first = true;
    for (const std::size_t position : sorted_positions(dict.items.size(), before)) {
      const auto& [key, value] = dict.items[position];
      next_item(std::exchange(first, false));
      const std::string* bytes = key.if_text();
      append(text, json_text(bytes == nullptr ? json_scalar(key) : *bytes, style_.ascii));
      append(text, style_.key_separator);
      write(value);
    }
    close(dict.items.empty(), "}");
  }

  void close(bool empty, const char* bracket) {
    --level_;
    if (!empty) {
      new_line();
    }
    append(text, bracket);
  }

  const JsonStyle& style_;
  int level_ = 0;
};

}  // namespace

std::string float_text(double value) {
  if (std::isnan(value)) {
    return "nan";
  }
  const std::string sign = std::signbit(value) ? "-" : "";
  if (std::isinf(value)) {
    return sign + "inf";
  }
  const Decimal decimal = shortest_decimal(std::abs(value));
  return sign + (decimal.exponent < -4 || decimal.exponent >= 16 ? scientific_text(decimal) : fixed_text(decimal));
}

std::string repr(const Value& value) {
  if (const std::string* text = value.if_text()) {
    return value.is_markup() ? "Markup(" + quoted(*text) + ")" : quoted(*text);
  }
  if (value.is_none()) {
    return "None";
  }
  if (value.is_bool()) {
    return value.truth() ? "True" : "False";
  }
  if (value.is_float()) {
    return float_text(value.number());
  }
  if (const auto integer = value.if_integer()) {
    return std::to_string(*integer);
  }
  if (const auto list = value.if_list()) {
    return repr_of_list(*list);
  }
  if (const auto dict = value.if_dict()) {
    return repr_of_dict(*dict);
  }
  if (value.is_undefined()) {
    return "Undefined";
  }
  fail_unsupported("the text of a " + value.type_name());
}

std::string to_text(const Value& value) {
  if (const std::string* text = value.if_text()) {
    return *text;
  }
  return value.is_undefined() ? std::string() : repr(value);
}

std::string to_json(const Value& value, const JsonStyle& style) {
  JsonWriter writer(style);
  writer.write(value);
  return writer.text;
}

}  // namespace diffulex_edge::chat
