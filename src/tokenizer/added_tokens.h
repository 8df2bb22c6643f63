// The "added_tokens" of a tokenizer.json: found in the text before anything else cuts it.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/bpe.h"
#include "tokenizer/normalizer.h"

namespace diffulex_edge {

struct AddedToken {
  std::int64_t id = 0;
  std::string content;
  bool single_word = false;  // not next to a word character
  bool lstrip = false;       // takes the spaces before it
  bool rstrip = false;       // takes the spaces behind it
  bool normalized = false;   // looked for in normalized text
};

// A part of a text: a token, or text without any.
struct Section {
  std::string_view text;
  std::optional<std::int64_t> id;
};

// Leftmost, then longest.
class AddedTokenFinder {
 public:
  // `pattern` is what to look for in place of the token's content.
  void add(AddedToken token, std::string_view pattern);

  std::vector<Section> cut(std::string_view text) const;

 private:
  struct Node {
    std::map<char, std::size_t> children;
    std::optional<std::size_t> token;
  };
  struct Match {
    std::size_t length = 0;
    const AddedToken* token = nullptr;
  };
  Match match_at(std::string_view text, std::size_t position) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_ = std::vector<Node>(1);  // a trie of bytes, from its root
};

class AddedTokens {
 public:
  // Throws Error{kBadFile} unless ids are those that Hugging Face's reader gives: the vocabulary's for a token in it,
  // else the next free ones.
  AddedTokens(const nlohmann::json& list, const Bpe& bpe, const Normalizer& normalizer, const std::string& where);

  const std::map<std::int64_t, std::string>& tokens() const { return tokens_; }
  std::optional<std::int64_t> id_of(std::string_view content) const;

  const AddedTokenFinder& in_raw_text() const { return raw_; }
  const AddedTokenFinder& in_normalized_text() const { return normalized_; }

 private:
  std::map<std::int64_t, std::string> tokens_;
  std::map<std::string, std::int64_t, std::less<>> ids_;
  AddedTokenFinder raw_;
  AddedTokenFinder normalized_;
};

}  // namespace diffulex_edge
