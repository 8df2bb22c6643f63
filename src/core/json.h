// Reading untrusted JSON files: bounded in size and depth, duplicate keys refused.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace diffulex_edge {

// Throws Error{kBadFile} naming the file: missing, over `max_bytes`, not JSON (with the position), nested deeper than
// 64, or with a key twice in one object.
nlohmann::json read_json_file(const std::filesystem::path& path, std::size_t max_bytes);
// The same for text that is in memory already; `name` stands for the file in messages.
nlohmann::json parse_json(std::string_view text, const std::string& name);

// Whether the file holds such JSON: an object with the text `format` as its "format".
bool has_json_format(const std::filesystem::path& path, std::string_view format, std::size_t max_bytes);

// nlohmann's message without its "[json.exception...]" prefix.
std::string json_error_text(const nlohmann::json::exception& error);

}  // namespace diffulex_edge
