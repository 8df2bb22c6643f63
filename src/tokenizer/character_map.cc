#include "tokenizer/character_map.h"

#include <cstddef>
#include <utility>

#include "diffulex_edge/error.h"
#include "tokenizer/bounded_text.h"
#include "tokenizer/unicode_forms.h"
#include "tokenizer/utf8.h"

namespace diffulex_edge {
namespace {

constexpr std::size_t kUnitBytes = 4;

std::uint32_t little_endian(std::string_view bytes) {
  std::uint32_t number = 0;
  for (std::size_t i = 0; i < kUnitBytes; ++i) {
    number |= std::uint32_t{static_cast<std::uint8_t>(bytes[i])} << (8 * i);
  }
  return number;
}

// Parts of a unit.
bool has_leaf(std::uint32_t unit) { return (unit >> 8U & 1U) == 1U; }
std::uint32_t value_of(std::uint32_t unit) { return unit & 0x7FFF'FFFFU; }
std::uint32_t label_of(std::uint32_t unit) { return unit & 0x8000'00FFU; }
std::uint32_t offset_of(std::uint32_t unit) { return unit >> 10U << ((unit & 0x200U) >> 6U); }

std::optional<std::uint32_t> sextet_of(char letter) {
  constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const std::size_t position = kAlphabet.find(letter);
  return position == std::string_view::npos ? std::nullopt : std::optional(static_cast<std::uint32_t>(position));
}

}  // namespace

CharacterMap::CharacterMap(std::string_view blob, std::string where) : where_(std::move(where)) {
  const std::size_t size = blob.size() < kUnitBytes ? 0 : little_endian(blob);
  if (size < kUnitBytes || size % kUnitBytes != 0 || size > blob.size() - kUnitBytes) {
    throw Error(ErrorCode::kBadFile, where_,
                "the table of characters says that its trie has " + std::to_string(size) + " bytes, of " +
                    std::to_string(blob.size()));
  }
  for (std::size_t i = kUnitBytes; i < kUnitBytes + size; i += kUnitBytes) {
    units_.push_back(little_endian(blob.substr(i)));
  }
  texts_ = blob.substr(kUnitBytes + size);
  if (invalid_utf8(texts_)) {
    throw Error(ErrorCode::kBadFile, where_, "the texts in the table of characters are not valid UTF-8");
  }
}

std::size_t CharacterMap::find(std::string_view key) const {
  std::uint32_t position = offset_of(units_[0]);
  for (const char letter : key) {
    const auto byte = static_cast<std::uint8_t>(letter);
    position ^= byte;
    if (byte == 0 || position >= units_.size() || label_of(units_[position]) != byte) {
      return kAbsent;
    }
    const std::uint32_t unit = units_[position];
    position ^= offset_of(unit);
    if (has_leaf(unit)) {
      return position < units_.size() ? value_of(units_[position]) : texts_.size();
    }
    if (position >= units_.size()) {
      return kAbsent;
    }
  }
  return kAbsent;
}

std::optional<std::string_view> CharacterMap::replacement(std::string_view key) const {
  const std::size_t begin = find(key);
  if (begin == kAbsent) {
    return std::nullopt;
  }
  if (begin >= texts_.size() || (static_cast<std::uint8_t>(texts_[begin]) & 0xC0U) == 0x80U) {
    throw Error(ErrorCode::kBadFile, where_, "the table of characters is damaged: an entry points at no text");
  }
  return std::string_view(texts_).substr(begin, texts_.find('\0', begin) - begin);
}

std::string CharacterMap::apply(std::string_view text, std::size_t limit) const {
  constexpr std::size_t kMostBytesOfWhole = 5;
  std::string result;
  result.reserve(text.size());
  for (std::size_t begin = 0, length = 0; begin < text.size(); begin += length) {
    length = grapheme_length(text, begin);
    const std::string_view grapheme = text.substr(begin, length);
    const auto whole = length <= kMostBytesOfWhole ? replacement(grapheme) : std::nullopt;
    if (whole) {
      append_within(result, *whole, limit);
      continue;
    }
    for (std::size_t i = 0; i < length; i += character_length(grapheme[i])) {
      const std::string_view character = grapheme.substr(i, character_length(grapheme[i]));
      append_within(result, replacement(character).value_or(character), limit);
    }
  }
  return result;
}

std::string from_base64(std::string_view text, const std::string& where) {
  constexpr std::size_t kGroup = 4;
  const std::size_t letters = text.find_last_not_of('=') + 1;
  if (text.size() % kGroup != 0 || text.size() - letters > 2) {
    throw Error(ErrorCode::kBadFile, where, "is not base64: its length is not a multiple of four");
  }
  std::string bytes;
  bytes.reserve(text.size() / kGroup * 3);
  std::uint32_t bits = 0;
  unsigned count = 0;
  for (const char letter : text.substr(0, letters)) {
    const std::optional<std::uint32_t> sextet = sextet_of(letter);
    if (!sextet) {
      throw Error(ErrorCode::kBadFile, where, std::string("is not base64: it has the letter '") + letter + "'");
    }
    bits = bits << 6U | *sextet;
    count += 6;
    if (count >= 8) {
      count -= 8;
      bytes += static_cast<char>(static_cast<std::uint8_t>(bits >> count));
    }
  }
  return bytes;
}

}  // namespace diffulex_edge
