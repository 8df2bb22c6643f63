// Reading untrusted JSON files: bounded in size and depth, duplicate keys refused.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace diffulex_edge {

// NaN, Infinity and -Infinity, which JSON does not have and Python's json module writes and reads.
enum class JsonNumbers { kFinite, kPython };

// Throws Error{kBadFile} naming the file: missing, over `max_bytes`, not JSON (with the position), nested deeper than
// 64, or with a key twice in one object.
nlohmann::json read_json_file(const std::filesystem::path& path, std::size_t max_bytes,
                              JsonNumbers numbers = JsonNumbers::kFinite);
// The same for text that is in memory already; `name` stands for the file in messages.
nlohmann::json parse_json(std::string_view text, const std::string& name, JsonNumbers numbers = JsonNumbers::kFinite);

// A value as text for messages, with those numbers as Python writes them.
std::string json_text(const nlohmann::json& value);

// A file of JSON with those numbers, changed and written again: they stay what they are, and keys in their order.
class PythonJson {
 public:
  // Of text that parse_json takes.
  explicit PythonJson(std::string_view text);

  nlohmann::ordered_json document;
  std::string dump() const;  // indented by two
};

// Whether the file holds such JSON: an object with the text `format` as its "format".
bool has_json_format(const std::filesystem::path& path, std::string_view format, std::size_t max_bytes);

// nlohmann's message without its "[json.exception...]" prefix.
std::string json_error_text(const nlohmann::json::exception& error);

}  // namespace diffulex_edge
