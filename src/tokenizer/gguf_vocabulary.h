// A tokenizer as the keys of a GGUF file have it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "model_files/gguf_header.h"

namespace diffulex_edge {

// Adds tokenizer.ggml.* of the folder's tokenizer: kind, pre-tokenizer, tokens with their types, scores or merges,
// special tokens and what stands before a text. Tokens are filled up to `vocab_size`, which is the number of rows of
// the embedding; `mask_token` is what the model masks with. Of a folder without a tokenizer, the kind "none"; of a GGUF
// file, all keys of its tokenizer and templates as they are. Returns warnings: what llama.cpp does otherwise. Throws
// Error{kUnsupported} for a tokenizer that llama.cpp has no name for, and those of read_tokenizer_source.
std::vector<std::string> add_gguf_tokenizer(const std::filesystem::path& folder, std::int64_t vocab_size,
                                            std::optional<std::int64_t> mask_token, GgufHeader& header);

}  // namespace diffulex_edge
