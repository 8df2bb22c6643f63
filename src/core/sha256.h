// SHA-256 of a byte range, through OpenSSL.
#pragma once

#include <cstddef>
#include <span>
#include <string>

struct evp_md_ctx_st;

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
  evp_md_ctx_st* context_;
};

// 64 lower-case hexadecimal digits.
std::string sha256_hex(std::span<const std::byte> bytes);

}  // namespace diffulex_edge
