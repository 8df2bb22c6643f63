// A fast 128-bit hash of content that arrives in pieces, from several threads and in no fixed order.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <string_view>

namespace diffulex_edge {

// XXH3 (128 bits): for names that differ where content does. It is not cryptographic.
using ContentDigest = std::array<std::uint64_t, 2>;

ContentDigest content_digest(std::initializer_list<std::span<const std::byte>> parts);

// The digest of pieces in the order of their positions, whichever order they came in.
class ContentHash {
 public:
  // Thread-safe. Pieces have the same positions and sizes whenever the digest is to be the same.
  void add(std::int64_t position, std::initializer_list<std::span<const std::byte>> parts);
  ContentDigest digest() const;

 private:
  mutable std::mutex mutex_;
  std::map<std::int64_t, ContentDigest> pieces_;
};

// 32 hexadecimal digits.
std::string to_string(const ContentDigest& digest);

}  // namespace diffulex_edge
