#include "core/content_hash.h"

#include <vector>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace diffulex_edge {

ContentDigest content_digest(std::initializer_list<std::span<const std::byte>> parts) {
  XXH3_state_t state;
  XXH3_128bits_reset(&state);
  for (const std::span<const std::byte> part : parts) {
    XXH3_128bits_update(&state, part.data(), part.size());
  }
  const XXH128_hash_t hash = XXH3_128bits_digest(&state);
  return {hash.high64, hash.low64};
}

void ContentHash::add(std::int64_t position, std::initializer_list<std::span<const std::byte>> parts) {
  const ContentDigest digest = content_digest(parts);
  const std::scoped_lock lock(mutex_);
  pieces_.insert_or_assign(position, digest);
}

ContentDigest ContentHash::digest() const {
  const std::scoped_lock lock(mutex_);
  std::vector<ContentDigest> digests;
  digests.reserve(pieces_.size());
  for (const auto& [position, digest] : pieces_) {
    digests.push_back(digest);
  }
  return content_digest({std::as_bytes(std::span(digests))});
}

std::string to_string(const ContentDigest& digest) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const std::uint64_t half : digest) {
    for (int shift = 60; shift >= 0; shift -= 4) {
      text += kDigits[(half >> static_cast<unsigned>(shift)) & 0xFU];
    }
  }
  return text;
}

}  // namespace diffulex_edge
