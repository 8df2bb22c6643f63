#include "runtime/model_tokens.h"

#include <optional>

#include "diffulex_edge/error.h"
#include "diffulex_edge/tokenizer.h"
#include "model_files/model_files.h"

namespace diffulex_edge {

TokenSequences read_model_tokens(const Model& model, const std::filesystem::path& file,
                                 const TokenDataOptions& options) {
  std::optional<Tokenizer> tokenizer;
  const std::filesystem::path extension = file.extension();
  if (extension != ".npy" && extension != ".safetensors" && !tokenizer_files(model.path).empty()) {
    tokenizer.emplace(model.path);
  }
  TokenSequences sequences = read_token_sequences(file, tokenizer ? &*tokenizer : nullptr, options);
  std::erase_if(sequences, [](const auto& tokens) { return tokens.size() < 2; });
  if (sequences.empty()) {
    throw Error(ErrorCode::kBadFile, file.string(), "has no sequence of two tokens or more");
  }
  return sequences;
}

}  // namespace diffulex_edge
