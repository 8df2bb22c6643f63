// Text files, line by line, and such with a JSON object on each line.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace diffulex_edge {

bool is_blank(std::string_view line);

// Calls take(line, number) for each line of a text, without its ending, until that is false; numbers begin at 1.
void for_each_line(std::string_view text, const std::function<bool(std::string_view line, std::int64_t number)>& take);

// Calls take(value, where) for each line of the file that is not blank, until that is false; `where` names file and
// line. Throws Error{kBadFile} for a line that is too long, no text, no JSON, or nested too deep.
void for_each_json_line(const std::filesystem::path& file,
                        const std::function<bool(const nlohmann::json& value, const std::string& where)>& take);

// The value of "input_ids". Throws Error{kBadFile} for anything but a list of integers that is not empty.
std::vector<std::int64_t> read_input_ids(const nlohmann::json& value, const std::string& where);

// Throws Error{kBadFile} for an id outside the vocabulary.
void check_token_ids(const std::vector<std::int64_t>& ids, std::int64_t vocab_size, const std::string& where,
                     const std::string& advice);

}  // namespace diffulex_edge
