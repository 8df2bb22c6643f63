// Tokens that are found in the text before anything else cuts it.
#pragma once

#include <bitset>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/normalizer.h"
#include "tokenizer/tokenizer_source.h"

namespace diffulex_edge {

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
  AddedTokens(const std::vector<AddedToken>& tokens, const Vocabulary& vocabulary, const Normalizer& normalizer,
              const std::string& where);

  // As it is decoded, that is normalized where it is looked for in normalized text; null: no added token has the id.
  const std::string* text_of(std::int64_t id) const;
  std::int64_t largest_id() const { return texts_.empty() ? -1 : texts_.rbegin()->first; }
  std::optional<std::int64_t> id_of(std::string_view content) const;
  bool is_special(std::int64_t id) const { return special_.contains(id); }
  const std::set<std::int64_t>& special_ids() const { return special_; }

  const AddedTokenFinder& in_raw_text() const { return raw_; }
  const AddedTokenFinder& in_normalized_text() const { return normalized_; }

 private:
  std::map<std::int64_t, std::string> texts_;
  std::map<std::string, std::int64_t, std::less<>> ids_;
  std::set<std::int64_t> special_;
  AddedTokenFinder raw_;
  AddedTokenFinder normalized_;
};

}  // namespace diffulex_edge
