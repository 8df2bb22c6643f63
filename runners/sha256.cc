// SHA-256 (FIPS 180-4) without a library: phones have no OpenSSL to link. The definition of src/core/sha256.h for
// runners.
#include "core/sha256.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>

namespace diffulex_edge {
namespace {

constexpr std::size_t kBlock = 64;
constexpr std::size_t kRounds = 64;

constexpr std::array<std::uint32_t, kRounds> kConstants = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

std::uint32_t big_endian(const std::byte* bytes) {
  std::uint32_t word = 0;
  std::memcpy(&word, bytes, sizeof(word));
  if constexpr (std::endian::native == std::endian::little) {
    word = __builtin_bswap32(word);
  }
  return word;
}

}  // namespace

struct Sha256::State {
  std::array<std::uint32_t, 8> hash = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                       0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::byte, kBlock> rest{};
  std::size_t rest_bytes = 0;
  std::uint64_t bytes = 0;

  void take_block(const std::byte* block) {
    std::array<std::uint32_t, kRounds> words;
    for (std::size_t i = 0; i < 16; ++i) {
      words[i] = big_endian(block + 4 * i);
    }
    for (std::size_t i = 16; i < kRounds; ++i) {
      const std::uint32_t a = words[i - 15];
      const std::uint32_t b = words[i - 2];
      words[i] = words[i - 16] + words[i - 7] + (std::rotr(a, 7) ^ std::rotr(a, 18) ^ (a >> 3U)) +
                 (std::rotr(b, 17) ^ std::rotr(b, 19) ^ (b >> 10U));
    }
    auto [a, b, c, d, e, f, g, h] = hash;
    for (std::size_t i = 0; i < kRounds; ++i) {
      const std::uint32_t first =
          h + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) + ((e & f) ^ (~e & g)) + kConstants[i] + words[i];
      const std::uint32_t second =
          (std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g;
      g = f;
      f = e;
      e = d + first;
      d = c;
      c = b;
      b = a;
      a = first + second;
    }
    const std::array<std::uint32_t, 8> added = {a, b, c, d, e, f, g, h};
    for (std::size_t i = 0; i < hash.size(); ++i) {
      hash[i] += added[i];
    }
  }

  void take(std::span<const std::byte> data) {
    bytes += data.size();
    while (!data.empty()) {
      if (rest_bytes == 0 && data.size() >= kBlock) {
        take_block(data.data());
        data = data.subspan(kBlock);
        continue;
      }
      const std::size_t count = std::min(kBlock - rest_bytes, data.size());
      std::copy_n(data.begin(), count, rest.begin() + static_cast<std::ptrdiff_t>(rest_bytes));
      rest_bytes += count;
      data = data.subspan(count);
      if (rest_bytes == kBlock) {
        take_block(rest.data());
        rest_bytes = 0;
      }
    }
  }
};

Sha256::Sha256() : state_(std::make_unique<State>()) {}
Sha256::~Sha256() = default;

void Sha256::add(std::span<const std::byte> bytes) { state_->take(bytes); }

std::string Sha256::finish() {
  const std::uint64_t bits = state_->bytes * 8;
  std::array<std::byte, kBlock + 8> padding{std::byte{0x80}};
  const std::size_t zeros = (kBlock + 56 - (state_->rest_bytes + 1) % kBlock) % kBlock;
  for (std::size_t i = 0; i < 8; ++i) {
    padding[1 + zeros + i] = static_cast<std::byte>(bits >> (56 - 8 * i));
  }
  state_->take(std::span(padding).first(1 + zeros + 8));
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const std::uint32_t word : state_->hash) {
    for (unsigned int shift = 28; shift < 32; shift -= 4) {
      text += kDigits[(word >> shift) & 15U];
    }
  }
  return text;
}

}  // namespace diffulex_edge
