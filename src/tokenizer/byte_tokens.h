// Tokens of single bytes, "<0x00>" to "<0xFF>", of models that fall back to them.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "tokenizer/vocabulary.h"

namespace diffulex_edge {

class ByteTokens {
 public:
  explicit ByteTokens(const Vocabulary& vocabulary);
  // Appends the bytes' tokens; false, and nothing is appended, where one of them is no token.
  bool append(std::string_view bytes, std::vector<std::int64_t>& ids) const;

 private:
  std::array<std::int64_t, 256> ids_{};  // -1: there is none
};

// The byte that a token stands for, written with digits of either case.
std::optional<std::uint8_t> byte_of_token(std::string_view token);

}  // namespace diffulex_edge
