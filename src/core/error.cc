#include "diffulex_edge/error.h"

#include <algorithm>
#include <utility>

namespace diffulex_edge {
namespace {

// Names from a hostile file end up in messages: keep each message on one line and of bounded length.
std::string printable(std::string_view text) {
  constexpr std::size_t kMaxLength = 300;
  std::size_t length = std::min(text.size(), kMaxLength);
  while (length < text.size() && length > 0 && (static_cast<unsigned char>(text[length]) & 0xC0U) == 0x80U) {
    --length;  // not inside a UTF-8 character
  }
  std::string result;
  for (std::size_t i = 0; i < length; ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const auto next = static_cast<unsigned char>(i + 1 < length ? text[i + 1] : '\0');
    if (byte == 0xC2 && next >= 0x80 && next < 0xA0) {  // U+0080 to U+009F: terminals obey them too
      result += '?';
      ++i;
    } else {
      result += byte < 0x20 || byte == 0x7f ? '?' : text[i];
    }
  }
  if (text.size() > kMaxLength) {
    result += "...";
  }
  return result;
}

std::string compose(const std::string& where, const std::string& what, const std::string& advice) {
  std::string message;
  if (!where.empty()) {
    message += printable(where) + ": ";
  }
  message += printable(what);
  if (!advice.empty()) {
    message += " (" + printable(advice) + ")";
  }
  return message;
}

}  // namespace

std::string_view to_string(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return "InvalidArgument";
    case ErrorCode::kBadFile:
      return "BadFile";
    case ErrorCode::kUnsupported:
      return "Unsupported";
    case ErrorCode::kIo:
      return "Io";
    case ErrorCode::kOutOfMemory:
      return "OutOfMemory";
    case ErrorCode::kCancelled:
      return "Cancelled";
    case ErrorCode::kInternal:
      break;
  }
  return "Internal";
}

Error::Error(ErrorCode code, std::string where, const std::string& what, std::string advice)
    : std::runtime_error(compose(where, what, advice)),
      code_(code),
      where_(std::move(where)),
      advice_(std::move(advice)) {}

}  // namespace diffulex_edge
