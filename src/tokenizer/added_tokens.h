// The "added_tokens" of a tokenizer.json: found in the text before anything else cuts it.
#pragma once

#include <bitset>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
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
  bool special = false;      // no part of what people read
};

// A part of a text: a token, or text without any.
struct Section {
  std::string_view text;
  std::optional<std::int64_t> id;
};

// Leftmost, then longest.
class AddedTokenFinder {
 public:
  // `pattern` is what to look for in place of the token's content. Of two tokens with the same one the first counts.
  void add(AddedToken token, std::string pattern);

  std::vector<Section> cut(std::string_view text) const;

 private:
  // The longest pattern at `position`, or patterns_.end().
  using Patterns = std::map<std::string, AddedToken, std::less<>>;
  Patterns::const_iterator match_at(std::string_view text, std::size_t position) const;

  Patterns patterns_;
  std::bitset<256> first_bytes_;  // of the patterns: most positions need no search
};

class AddedTokens {
 public:
  // Throws Error{kBadFile} unless ids are those that Hugging Face's reader gives: the vocabulary's for a token in it,
  // else the next free ones.
  AddedTokens(const nlohmann::json& list, const Bpe& bpe, const Normalizer& normalizer, const std::string& where);

  const std::map<std::int64_t, std::string>& tokens() const { return tokens_; }
  std::optional<std::int64_t> id_of(std::string_view content) const;
  bool is_special(std::int64_t id) const { return special_.contains(id); }
  const std::set<std::int64_t>& special_ids() const { return special_; }

  const AddedTokenFinder& in_raw_text() const { return raw_; }
  const AddedTokenFinder& in_normalized_text() const { return normalized_; }

 private:
  std::map<std::int64_t, std::string> tokens_;
  std::map<std::string, std::int64_t, std::less<>> ids_;
  std::set<std::int64_t> special_;
  AddedTokenFinder raw_;
  AddedTokenFinder normalized_;
};

}  // namespace diffulex_edge
