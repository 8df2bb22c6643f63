// SentencePiece's compiled table of what characters become ("precompiled_charsmap").
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace diffulex_edge {

class CharacterMap {
 public:
  // The size of a trie, the trie (a double array of 32-bit units, as Darts-clone writes it), and texts that end with a
  // zero byte. Throws Error{kBadFile}, naming `where`.
  CharacterMap(std::string_view blob, std::string where);

  // Grapheme clusters of up to five bytes are looked up as a whole, others by character, as Hugging Face does. Of a
  // cluster that begins with an entry, the entry's text takes the place of all. Throws Error{kBadFile} where the table
  // contradicts itself, and what append_within() does.
  std::string apply(std::string_view text, std::size_t limit) const;

 private:
  // The texts' position for the shortest entry that `key` begins with, or kAbsent.
  static constexpr std::size_t kAbsent = SIZE_MAX;
  std::size_t find(std::string_view key) const;
  std::optional<std::string_view> replacement(std::string_view key) const;

  std::string where_;
  std::vector<std::uint32_t> units_;
  std::string texts_;
};

// Throws Error{kBadFile}, naming `where`, for what is no base64 (RFC 4648).
std::string from_base64(std::string_view text, const std::string& where);

}  // namespace diffulex_edge
