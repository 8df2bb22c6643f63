// Which files of a folder make its tokenizer, and what they say.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer_source.h"

namespace diffulex_edge {

// For messages about a folder without any.
inline constexpr std::string_view kTokenizerFilesText =
    "no tokenizer.json, no vocab.json with merges.txt, no tokenizer.model, no vocab.txt";

// The names of all files that a tokenizer may consist of; a folder has some. The model's config.json, which one of them
// may need, is none.
std::vector<std::string> tokenizer_file_names();

// Of a folder, or of the main file of its tokenizer. Errors: those of Tokenizer.
TokenizerSource read_tokenizer_source(const std::filesystem::path& path);

}  // namespace diffulex_edge
