// A GGUF file's tokenizer as the tokenizer.json and tokenizer_config.json of its family.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "model_files/gguf_file.h"

namespace diffulex_edge {

// llama.cpp's kinds of tokens.
enum class GgufTokenType : std::uint8_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

bool has_gguf_tokenizer(const GgufFile& file);

// Byte-level BPE ("gpt2") with the pre-tokenizers that the known families have, and SentencePiece's BPE ("llama").
// Throws Error{kUnsupported} for another one, and Error{kBadFile} for lists that do not fit together.
nlohmann::json gguf_tokenizer(const GgufFile& file);

// Special tokens as texts, the added ones by their ids, and the chat template.
nlohmann::json gguf_tokenizer_config(const GgufFile& file);

// The name that llama.cpp has for the pre-tokenizer of a byte-level BPE, which is given as a tokenizer.json has it;
// nothing where it has none.
std::optional<std::string_view> gguf_pre_tokenizer_name(const nlohmann::json& pre_tokenizer, bool ignores_merges);

}  // namespace diffulex_edge
