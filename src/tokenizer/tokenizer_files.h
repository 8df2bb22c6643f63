// Which files of a folder make its tokenizer, and what they say.
#pragma once

#include <filesystem>
#include <string_view>

#include "tokenizer/tokenizer_source.h"

namespace diffulex_edge {

// For messages about a folder without any.
inline constexpr std::string_view kTokenizerFilesText =
    "no tokenizer.json, no vocab.json with merges.txt, no tokenizer.model, no vocab.txt";

// Of a folder, or of the main file of its tokenizer. Errors: those of Tokenizer.
TokenizerSource read_tokenizer_source(const std::filesystem::path& path);

}  // namespace diffulex_edge
