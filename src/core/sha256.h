// SHA-256 of a byte range, through OpenSSL; runners, which do without it, have a definition of their own.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace diffulex_edge {

// Bytes that come piece by piece.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  Sha256(Sha256&&) = delete;
  Sha256& operator=(Sha256&&) = delete;

  void add(std::span<const std::byte> bytes);
  // 64 lower-case hexadecimal digits. Nothing can be added afterwards.
  std::string finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// 64 lower-case hexadecimal digits.
inline std::string sha256_hex(std::span<const std::byte> bytes) {
  Sha256 hash;
  hash.add(bytes);
  return hash.finish();
}

}  // namespace diffulex_edge
