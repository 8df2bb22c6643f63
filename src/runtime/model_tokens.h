// Token sequences for a model, with its own tokenizer.
#pragma once

#include <filesystem>

#include "diffulex_edge/model.h"
#include "diffulex_edge/runtime.h"
#include "runtime/token_data.h"

namespace diffulex_edge {

// read_token_sequences with the tokenizer of the model's folder, if text needs it; sequences of one token are left
// out. Throws Error{kBadFile} where none of two tokens or more is left.
TokenSequences read_model_tokens(const Model& model, const std::filesystem::path& file,
                                 const TokenDataOptions& options);

}  // namespace diffulex_edge
