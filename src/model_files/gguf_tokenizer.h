// A GGUF file's tokenizer as the tokenizer.json and tokenizer_config.json of its family.
#pragma once

#include <nlohmann/json.hpp>

#include "model_files/gguf_file.h"

namespace diffulex_edge {

bool has_gguf_tokenizer(const GgufFile& file);

// Byte-level BPE ("gpt2") with the pre-tokenizers that the known families have, and SentencePiece's BPE ("llama").
// Throws Error{kUnsupported} for another one, and Error{kBadFile} for lists that do not fit together.
nlohmann::json gguf_tokenizer(const GgufFile& file);

// Special tokens as texts, the added ones by their ids, and the chat template.
nlohmann::json gguf_tokenizer_config(const GgufFile& file);

}  // namespace diffulex_edge
