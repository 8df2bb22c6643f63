// Values as text: Python's str and repr, and JSON.
#pragma once

#include <optional>
#include <string>

#include "chat/value.h"

namespace diffulex_edge::chat {

std::string to_text(const Value& value);  // str
std::string repr(const Value& value);
std::string float_text(double value);

// The arguments of transformers' filter `tojson`, which are those of Python's json.dumps.
struct JsonStyle {
  std::optional<std::string> indent;  // of one level
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool ascii = false;
  bool sort_keys = false;
};
std::string to_json(const Value& value, const JsonStyle& style);

}  // namespace diffulex_edge::chat
