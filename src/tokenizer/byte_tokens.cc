#include "tokenizer/byte_tokens.h"

#include <algorithm>
#include <charconv>
#include <string>
#include <system_error>

namespace diffulex_edge {

ByteTokens::ByteTokens(const Vocabulary& vocabulary) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  for (std::size_t byte = 0; byte < ids_.size(); ++byte) {
    const std::string token = {'<', '0', 'x', kDigits[byte >> 4U], kDigits[byte & 0xFU], '>'};
    const std::optional<std::uint32_t> id = vocabulary.id_of(token);
    ids_[byte] = id ? std::int64_t{*id} : -1;
  }
}

bool ByteTokens::append(std::string_view bytes, std::vector<std::int64_t>& ids) const {
  const auto id_of = [&](char byte) { return ids_[static_cast<std::uint8_t>(byte)]; };
  if (std::ranges::any_of(bytes, [&](char byte) { return id_of(byte) < 0; })) {
    return false;
  }
  for (const char byte : bytes) {
    ids.push_back(id_of(byte));
  }
  return true;
}

std::optional<std::uint8_t> byte_of_token(std::string_view token) {
  constexpr std::size_t kLength = 6;
  if (token.size() != kLength || !token.starts_with("<0x") || token.back() != '>') {
    return std::nullopt;
  }
  std::uint8_t byte = 0;
  const char* end = token.data() + kLength - 1;
  const auto [stopped, error] = std::from_chars(token.data() + 3, end, byte, 16);
  return error == std::errc() && stopped == end ? std::optional(byte) : std::nullopt;
}

}  // namespace diffulex_edge
