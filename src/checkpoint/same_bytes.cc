#include "checkpoint/same_bytes.h"

#include <algorithm>
#include <cstring>

#include "core/mapped_file.h"

namespace diffulex_edge {

bool same_bytes(const TensorView& a, const TensorView& b) {
  constexpr std::size_t kPiece = std::size_t{4} << 20U;
  if (a.bytes.size() != b.bytes.size()) {
    return false;
  }
  bool same = true;
  for (std::size_t at = 0; same && at < a.bytes.size(); at += kPiece) {
    const std::size_t size = std::min(kPiece, a.bytes.size() - at);
    const auto left = a.bytes.subspan(at, size);
    const auto right = b.bytes.subspan(at, size);
    same = std::memcmp(left.data(), right.data(), size) == 0;
    MappedFile::release(left);
    MappedFile::release(right);
  }
  return same;
}

}  // namespace diffulex_edge
