// What goes wrong inside a template, before the line is known.
#pragma once

#include <stdexcept>
#include <string>

#include "diffulex_edge/error.h"

namespace diffulex_edge::chat {

// Becomes an `Error` with the file and the line where the interpreter or the parser catches it.
class Failure : public std::runtime_error {
 public:
  explicit Failure(const std::string& what, ErrorCode code = ErrorCode::kInvalidArgument)
      : std::runtime_error(what), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

// For `what` that Jinja has and this room hasn't: "the tag 'include'".
[[noreturn]] inline void fail_unsupported(const std::string& what) {
  throw Failure("the template uses " + what + ", which is not supported", ErrorCode::kUnsupported);
}

}  // namespace diffulex_edge::chat
