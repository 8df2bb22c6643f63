// SHA-256 of a byte range, through OpenSSL.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace diffulex_edge {

// 64 lower-case hexadecimal digits.
std::string sha256_hex(std::span<const std::byte> bytes);

}  // namespace diffulex_edge
