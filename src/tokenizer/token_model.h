// The "model" of a tokenizer.json: what makes tokens of one piece of text.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer_source.h"
#include "tokenizer/vocabulary.h"

namespace diffulex_edge {

// Immutable, for any number of threads.
class TokenModel {
 public:
  TokenModel() = default;
  virtual ~TokenModel() = default;
  TokenModel(const TokenModel&) = delete;
  TokenModel& operator=(const TokenModel&) = delete;
  TokenModel(TokenModel&&) = delete;
  TokenModel& operator=(TokenModel&&) = delete;

  // Appends the ids of a piece, which is valid UTF-8. Throws Error{kBadFile} for a character that is no token where
  // there is no unknown token either.
  virtual void encode(std::string_view piece, std::vector<std::int64_t>& ids) const = 0;
  virtual const Vocabulary& vocabulary() const = 0;
};

// Throws Error{kBadFile}, naming `where`, unless the source is consistent.
std::unique_ptr<TokenModel> make_token_model(BpeSource source, const std::string& where);
std::unique_ptr<TokenModel> make_token_model(UnigramSource source, const std::string& where);
std::unique_ptr<TokenModel> make_token_model(WordPieceSource source, const std::string& where);

}  // namespace diffulex_edge
