// Byte pair encoding (Sennrich et al., arXiv:1508.07909): the "model" of a tokenizer.json.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizer/fields.h"

namespace diffulex_edge {

class Bpe {
 public:
  explicit Bpe(const Fields& model);

  // Appends the ids of one piece: its characters, where at each step the pair of lowest rank, leftmost first, is put
  // together. O(n log n).
  void encode(std::string_view piece, std::vector<std::int64_t>& ids) const;

  std::optional<std::int64_t> id_of(std::string_view token) const;
  const std::unordered_map<std::int64_t, std::string>& tokens() const { return tokens_; }

 private:
  struct Merge {
    std::uint32_t rank = 0;
    std::uint32_t id = 0;
  };
  struct Symbol;
  struct TextHash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };

  void read_vocabulary(const Fields& model);
  void read_merges(const Fields& model);
  std::uint32_t require_id(const Fields& model, std::size_t rank, const std::string& token) const;
  const Merge* merge_of(std::uint32_t left, std::uint32_t right) const;
  std::vector<Symbol> symbols_of(std::string_view piece) const;

  std::unordered_map<std::string, std::uint32_t, TextHash, std::equal_to<>> ids_;
  std::unordered_map<std::int64_t, std::string> tokens_;
  std::unordered_map<std::uint64_t, Merge> merges_;  // by left id << 32 | right id
  std::optional<std::uint32_t> unknown_;
  bool unknown_is_missing_ = false;  // an error only for a text that needs it, since byte-level BPE never does
  bool fuse_unknown_ = false;
  bool ignore_merges_ = false;  // a piece that is a token is taken as it is
};

}  // namespace diffulex_edge
