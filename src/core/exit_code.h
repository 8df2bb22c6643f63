// How programs end after an error: the codes of docs/USER_GUIDE.md.
#pragma once

#include "diffulex_edge/error.h"

namespace diffulex_edge {

constexpr int exit_code(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return 2;
    case ErrorCode::kBadFile:
      return 3;
    case ErrorCode::kUnsupported:
      return 4;
    case ErrorCode::kIo:
      return 5;
    case ErrorCode::kOutOfMemory:
    case ErrorCode::kCancelled:
    case ErrorCode::kInternal:
      break;
  }
  return 1;
}

}  // namespace diffulex_edge
