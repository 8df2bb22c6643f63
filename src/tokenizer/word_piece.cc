// WordPiece (Wu et al., arXiv:1609.08144): of a word, again and again the longest token that it begins with.
#include <optional>
#include <string>
#include <utility>

#include "diffulex_edge/error.h"
#include "tokenizer/piece_trie.h"
#include "tokenizer/token_model.h"
#include "tokenizer/utf8.h"

namespace diffulex_edge {
namespace {

class WordPiece final : public TokenModel {
 public:
  WordPiece(WordPieceSource source, std::string where);

  void encode(std::string_view piece, std::vector<std::int64_t>& ids) const override;
  const Vocabulary& vocabulary() const override { return vocabulary_; }

 private:
  void read_tokens(const std::string& prefix);
  bool encode_known(std::string_view word, std::vector<std::int64_t>& ids) const;

  std::string where_;
  Vocabulary vocabulary_;
  PieceTrie first_;       // tokens that begin a word
  PieceTrie continuing_;  // tokens inside a word, without their prefix
  std::string unknown_token_;
  std::uint64_t max_word_characters_;
};

WordPiece::WordPiece(WordPieceSource source, std::string where)
    : where_(std::move(where)),
      vocabulary_(std::move(source.vocabulary)),
      unknown_token_(std::move(source.unknown_token)),
      max_word_characters_(source.max_word_characters) {
  read_tokens(source.continuing_prefix);
}

void WordPiece::read_tokens(const std::string& prefix) {
  std::vector<PieceTrie::Entry> first;
  std::vector<PieceTrie::Entry> continuing;
  vocabulary_.for_each([&](const std::string& token, std::uint32_t id) {
    if (token.size() > PieceTrie::kMaxBytes) {
      throw Error(ErrorCode::kBadFile, where_,
                  "token number " + std::to_string(id) + " has " + std::to_string(token.size()) +
                      " bytes; the longest that is read has " + std::to_string(PieceTrie::kMaxBytes));
    }
    first.emplace_back(token, id);
    if (token.starts_with(prefix)) {
      continuing.emplace_back(std::string_view(token).substr(prefix.size()), id);
    }
  });
  first_ = PieceTrie(std::move(first));
  continuing_ = PieceTrie(std::move(continuing));
}

// False where the word is not made of tokens; what was appended is then no result.
bool WordPiece::encode_known(std::string_view word, std::vector<std::int64_t>& ids) const {
  for (std::size_t begin = 0, length = 0; begin < word.size(); begin += length) {
    length = 0;
    std::uint32_t id = 0;
    const auto take = [&](std::size_t bytes, std::uint32_t found) {
      length = bytes;
      id = found;
    };
    (begin == 0 ? first_ : continuing_).for_each_prefix(word.substr(begin), take);
    if (length == 0) {
      return false;
    }
    ids.push_back(id);
  }
  return true;
}

void WordPiece::encode(std::string_view piece, std::vector<std::int64_t>& ids) const {
  const std::size_t before = ids.size();
  if (count_characters(piece) <= max_word_characters_ && encode_known(piece, ids)) {
    return;
  }
  ids.resize(before);
  const std::optional<std::uint32_t> unknown = vocabulary_.id_of(unknown_token_);
  if (!unknown) {
    throw Error(ErrorCode::kBadFile, where_,
                "'" + std::string(piece) + "' is not in 'vocab', and neither is the 'unk_token'");
  }
  ids.push_back(*unknown);
}

}  // namespace

std::unique_ptr<TokenModel> make_token_model(WordPieceSource source, const std::string& where) {
  return std::make_unique<WordPiece>(std::move(source), where);
}

}  // namespace diffulex_edge
