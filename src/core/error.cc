#include "diffulex_edge/error.h"

#include <utility>

#include "core/printable.h"

namespace diffulex_edge {
namespace {

// Of each part, in bytes: names from a file end up in messages.
constexpr std::size_t kMostBytes = 300;

std::string compose(const std::string& where, const std::string& what, const std::string& advice) {
  std::string message;
  if (!where.empty()) {
    message += printable(where, kMostBytes) + ": ";
  }
  message += printable(what, kMostBytes);
  if (!advice.empty()) {
    message += " (" + printable(advice, kMostBytes) + ")";
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
      problem_(printable(what)),
      advice_(std::move(advice)) {
  where_ = printable(where_);
  advice_ = printable(advice_);
}

}  // namespace diffulex_edge
