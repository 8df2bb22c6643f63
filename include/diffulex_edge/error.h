// The one exception type of the library.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace diffulex_edge {

enum class ErrorCode {
  kInvalidArgument,  // the caller asked for something that makes no sense
  kBadFile,          // an input file is missing, broken or contradictory
  kUnsupported,      // well-formed, but this build can't do it
  kIo,               // an output could not be written
  kOutOfMemory,
  kCancelled,  // the caller's stop token was triggered
  kInternal,   // a defect of this library
};

std::string_view to_string(ErrorCode code);

// `what()` is one line without a full stop: "WHERE: WHAT (ADVICE)", where absent parts are left out.
//   where   the file, tensor, layer, config key or option that the error is about
//   what    what is wrong, with the offending value
//   advice  what the user can do about it
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, std::string where, const std::string& what, std::string advice = {});
  ErrorCode code() const noexcept { return code_; }
  const std::string& where() const noexcept { return where_; }
  const std::string& problem() const noexcept { return problem_; }  // WHAT
  const std::string& advice() const noexcept { return advice_; }

 private:
  ErrorCode code_;
  std::string where_;
  std::string problem_;
  std::string advice_;
};

}  // namespace diffulex_edge
