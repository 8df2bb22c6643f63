#include "core/json.h"

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/mapped_file.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {

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

nlohmann::json read_json_file(const std::filesystem::path& path, std::size_t max_bytes) {
  const MappedFile file(path);
  if (file.bytes().size() > max_bytes) {
    throw Error(ErrorCode::kBadFile, path.string(),
                std::to_string(file.bytes().size()) + " bytes are more than such a file may have (" +
                    std::to_string(max_bytes) + ")");
  }
  const std::string text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  file.check();
  return parse_json(text, path.string());
}

nlohmann::json parse_json(std::string_view text, const std::string& name) {
  constexpr int kMaxDepth = 64;
  // nlohmann-json takes a NUL byte for the end of its input.
  if (text.find('\0') != std::string_view::npos) {
    throw Error(ErrorCode::kBadFile, name, "not valid JSON: it holds a NUL byte");
  }
  std::vector<std::set<std::string>> keys;
  const auto check = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& value) {
    const bool opens =
        event == nlohmann::json::parse_event_t::object_start || event == nlohmann::json::parse_event_t::array_start;
    if (opens && depth >= kMaxDepth) {  // `depth` counts the brackets around this one
      throw Error(ErrorCode::kBadFile, name, "the JSON is nested deeper than " + std::to_string(kMaxDepth));
    }
    if (event == nlohmann::json::parse_event_t::object_start) {
      keys.emplace_back();
    } else if (event == nlohmann::json::parse_event_t::object_end) {
      keys.pop_back();
    } else if (event == nlohmann::json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second) {
      throw Error(ErrorCode::kBadFile, name, "the key '" + value.get<std::string>() + "' appears twice");
    }
    return true;
  };
  try {
    return nlohmann::json::parse(text.begin(), text.end(), check);
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorCode::kBadFile, name, "not valid JSON: " + json_error_text(error));
  }
}

}  // namespace diffulex_edge
