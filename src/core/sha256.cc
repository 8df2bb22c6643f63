#include "core/sha256.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <array>

#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

void check(int result) {
  if (result != 1) {
    throw Error(ErrorCode::kInternal, {}, "SHA-256 is not available in this OpenSSL");
  }
}

// Threads that have hashed still wait in the pool when a process exits. OpenSSL's own cleanup at exit may come before
// they end, and then nobody frees what OpenSSL keeps for each of them.
void forgo_cleanup() {
  static const int is_ready = OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, nullptr);
  check(is_ready);
}

EVP_MD_CTX* new_context() {
  forgo_cleanup();
  return EVP_MD_CTX_new();
}

}  // namespace

struct Sha256::State {
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context{new_context(), EVP_MD_CTX_free};
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  if (state_->context == nullptr) {
    throw Error(ErrorCode::kOutOfMemory, {}, "out of memory");
  }
  check(EVP_DigestInit_ex(state_->context.get(), EVP_sha256(), nullptr));
}

Sha256::~Sha256() = default;

void Sha256::add(std::span<const std::byte> bytes) {
  check(EVP_DigestUpdate(state_->context.get(), bytes.data(), bytes.size()));
}

std::string Sha256::finish() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int length = 0;
  check(EVP_DigestFinal_ex(state_->context.get(), digest.data(), &length));
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (unsigned int i = 0; i < length; ++i) {
    text += kDigits[digest[i] >> 4];
    text += kDigits[digest[i] & 15];
  }
  return text;
}

}  // namespace diffulex_edge
