#include "core/json.h"

#include <array>
#include <cctype>
#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/mapped_file.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

struct PythonNumber {
  std::string_view name;
  std::string_view mark;  // the JSON string that stands for it while JSON is parsed or written
  double value;
};

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr std::array<PythonNumber, 3> kPythonNumbers = {{
    {"-Infinity", R"("\u0001-Infinity")", -kInfinity},
    {"Infinity", R"("\u0001Infinity")", kInfinity},
    {"NaN", R"("\u0001NaN")", std::numeric_limits<double>::quiet_NaN()},
}};

bool is_word(std::string_view text, std::size_t at) {
  return at < text.size() && std::isalnum(static_cast<unsigned char>(text[at])) != 0;
}

// The number that begins there, unless it is in the place of a key.
const PythonNumber* number_at(std::string_view text, std::size_t at) {
  for (const PythonNumber& number : kPythonNumbers) {
    const std::size_t end = at + number.name.size();
    if (text.substr(at).starts_with(number.name) && !is_word(text, end)) {
      const std::size_t next = text.find_first_not_of(" \t\r\n", end);
      return next != std::string_view::npos && text[next] == ':' ? nullptr : &number;
    }
  }
  return nullptr;
}

// Marks in place of the numbers outside strings.
std::string mark_numbers(std::string_view text) {
  std::string marked;
  bool is_string = false;
  for (std::size_t at = 0; at < text.size();) {
    const bool may_begin = !is_string && (at == 0 || !is_word(text, at - 1));
    if (const PythonNumber* number = may_begin ? number_at(text, at) : nullptr) {
      marked += number->mark;
      at += number->name.size();
      continue;
    }
    if (is_string && text[at] == '\\' && at + 1 < text.size()) {
      marked += text[at++];
    } else if (text[at] == '"') {
      is_string = !is_string;
    }
    marked += text[at++];
  }
  return marked;
}

// The number that a string read from a mark stands for.
const PythonNumber* marked_number(const nlohmann::json& value) {
  if (value.is_string() && value.get_ref<const std::string&>().starts_with('\x01')) {
    for (const PythonNumber& number : kPythonNumbers) {
      if (std::string_view(value.get_ref<const std::string&>()).substr(1) == number.name) {
        return &number;
      }
    }
  }
  return nullptr;
}

}  // namespace

std::string json_text(const nlohmann::json& value) {
  if (value.is_number_float()) {
    const double number = value.get<double>();
    if (!std::isfinite(number)) {
      return std::isnan(number) ? "NaN" : std::string(number < 0 ? "-" : "") + "Infinity";
    }
  }
  return value.dump();
}

PythonJson::PythonJson(std::string_view text) : document(nlohmann::ordered_json::parse(mark_numbers(text))) {}

std::string PythonJson::dump() const {
  std::string text = document.dump(2);
  for (const PythonNumber& number : kPythonNumbers) {
    for (std::size_t at = text.find(number.mark); at != std::string::npos; at = text.find(number.mark, at)) {
      text.replace(at, number.mark.size(), number.name);
    }
  }
  return text;
}

bool has_json_format(const std::filesystem::path& path, std::string_view format, std::size_t max_bytes) {
  try {
    const nlohmann::json document = read_json_file(path, max_bytes);
    return document.is_object() && document.value("format", nlohmann::json()) == format;
  } catch (const Error&) {
    return false;
  }
}

std::string json_error_text(const nlohmann::json::exception& error) {
  const std::string_view text = error.what();
  const std::size_t end = text.find("] ");
  return std::string(end == std::string_view::npos ? text : text.substr(end + 2));
}

nlohmann::json read_json_file(const std::filesystem::path& path, std::size_t max_bytes, JsonNumbers numbers) {
  const MappedFile file(path);
  if (file.bytes().size() > max_bytes) {
    throw Error(ErrorCode::kBadFile, path.string(),
                std::to_string(file.bytes().size()) + " bytes are more than such a file may have (" +
                    std::to_string(max_bytes) + ")");
  }
  const std::string text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  file.check();
  return parse_json(text, path.string(), numbers);
}

nlohmann::json parse_json(std::string_view text, const std::string& name, JsonNumbers numbers) {
  constexpr int kMaxDepth = 64;
  // nlohmann-json takes a NUL byte for the end of its input.
  if (text.find('\0') != std::string_view::npos) {
    throw Error(ErrorCode::kBadFile, name, "not valid JSON: it holds a NUL byte");
  }
  const bool is_python = numbers == JsonNumbers::kPython;
  const std::string marked = is_python ? mark_numbers(text) : std::string();
  std::vector<std::set<std::string>> keys;
  const auto check = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& value) {
    const bool opens =
        event == nlohmann::json::parse_event_t::object_start || event == nlohmann::json::parse_event_t::array_start;
    if (opens && depth >= kMaxDepth) {  // `depth` counts the brackets around this one
      throw Error(ErrorCode::kBadFile, name, "the JSON is nested deeper than " + std::to_string(kMaxDepth));
    }
    if (event == nlohmann::json::parse_event_t::value && is_python) {
      if (const PythonNumber* number = marked_number(value)) {
        value = number->value;
      }
    } else if (event == nlohmann::json::parse_event_t::object_start) {
      keys.emplace_back();
    } else if (event == nlohmann::json::parse_event_t::object_end) {
      keys.pop_back();
    } else if (event == nlohmann::json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second) {
      throw Error(ErrorCode::kBadFile, name, "the key '" + value.get<std::string>() + "' appears twice");
    }
    return true;
  };
  try {
    return nlohmann::json::parse(is_python ? std::string_view(marked) : text, check);
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorCode::kBadFile, name, "not valid JSON: " + json_error_text(error));
  }
}

}  // namespace diffulex_edge
