// How a weight file is laid out: a head, and entries ("blobs") that are found by the offset of their metadata.
// docs/FORMATS.md has more.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace diffulex_edge::coreml {

inline constexpr std::uint32_t kFileVersion = 2;
inline constexpr std::uint32_t kSentinel = 0xDEADBEEF;

// Types of blobs.
inline constexpr std::uint32_t kBlobFloat16 = 1;
inline constexpr std::uint32_t kBlobFloat32 = 2;
inline constexpr std::uint32_t kBlobUint8 = 3;
inline constexpr std::uint32_t kBlobInt8 = 4;
inline constexpr std::uint32_t kBlobInt4 = 8;
inline constexpr std::uint32_t kBlobUint1 = 9;
inline constexpr std::uint32_t kBlobUint2 = 10;
inline constexpr std::uint32_t kBlobUint4 = 11;
inline constexpr std::uint32_t kBlobUint3 = 12;
inline constexpr std::uint32_t kBlobUint6 = 13;

struct FileHead {
  std::uint32_t count = 0;
  std::uint32_t version = kFileVersion;
  std::array<std::uint64_t, 7> reserved{};
};
static_assert(sizeof(FileHead) == 64);

struct BlobMetadata {
  std::uint32_t sentinel = kSentinel;
  std::uint32_t type = 0;
  std::uint64_t bytes = 0;
  std::uint64_t data_offset = 0;
  std::uint64_t padding_bits = 0;  // unused ones at the end of the last byte
  std::array<std::uint64_t, 4> reserved{};
};
static_assert(sizeof(BlobMetadata) == 64);

struct StoredBlob {
  std::uint32_t type = 0;
  std::span<const std::byte> bytes;
  std::uint64_t padding_bits = 0;
};

// The blob whose metadata begins at `offset`. `name` is the file's, for messages. Throws Error{kBadFile}.
StoredBlob read_blob(std::span<const std::byte> file, std::uint64_t offset, const std::string& name);

}  // namespace diffulex_edge::coreml
