// How long operations report and how they are stopped. The library itself never prints.
#pragma once

#include <cstdint>
#include <functional>
#include <stop_token>
#include <string>

namespace diffulex_edge {

struct Progress {
  std::string stage;            // "weights"
  std::int64_t done_bytes = 0;  // source bytes consumed so far
  std::int64_t total_bytes = 0;
  bool in_bytes = true;  // false: the two are parts of the work, such as layers
};

struct RunControl {
  int threads = 0;       // worker threads; 0: one for each processor
  std::stop_token stop;  // when triggered, the operation throws Error{kCancelled} within one tile of work
  // Called from one thread at a time, at most some tens of times a second.
  std::function<void(const Progress&)> on_progress;
};

}  // namespace diffulex_edge
