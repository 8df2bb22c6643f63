// Another program, run to its end.
#pragma once

#include <chrono>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

namespace diffulex_edge {

struct ChildResult {
  int exit_code = 0;  // where `signal` is 0
  int signal = 0;     // the one that ended it
  std::string output;
  std::string errors;
};

struct ChildLimits {
  std::optional<std::chrono::milliseconds> time;
  std::size_t output_bytes = std::size_t{16} << 20U;
};

// Runs `arguments`: first a program's path, or a name that is looked for in the PATH; never through a shell. It reads
// nothing, and what it writes on standard output and error is returned; standard error is a file that it may read back.
// It leads a process group of its own. All of that group is ended when the child ends, is stopped, or goes over a
// limit: nothing that stays in it outlives this call. Throws Error{kCancelled} within about 0.1 s of a request to stop;
// Error{kInvalidArgument} naming a program that can't be started; Error{kUnsupported} for what goes over a limit;
// Error{kIo} when the system has no pipe or file for it.
ChildResult run_child(const std::vector<std::string>& arguments, const std::stop_token& stop,
                      const ChildLimits& limits = {});

}  // namespace diffulex_edge
