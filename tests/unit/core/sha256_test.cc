#include "core/sha256.h"

#include <gtest/gtest.h>

namespace diffulex_edge {
namespace {

std::string hash(std::string_view text) { return sha256_hex(std::as_bytes(std::span(text))); }

// FIPS 180-2, appendix B.2 and B.3.
TEST(Sha256Vectors, HoldForSeveralBlocks) {
  EXPECT_EQ(hash("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(hash(std::string(1'000'000, 'a')), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256Vectors, DependOnEveryByteAndOnTheLength) {
  const std::string zeros(65, '\0');
  for (const std::size_t size : {55U, 56U, 63U, 64U}) {  // around the padding's boundaries
    const std::string text = zeros.substr(0, size);
    EXPECT_EQ(hash(text).size(), 64U);
    EXPECT_NE(hash(text), hash(zeros.substr(0, size + 1))) << size;
    std::string other = text;
    other.back() = '\1';
    EXPECT_NE(hash(text), hash(other)) << size;
  }
}

}  // namespace
}  // namespace diffulex_edge
