// Ctrl-C and friends: stop the work, clean up, then die of the signal as a shell expects.
#pragma once

#include <stop_token>
#include <thread>

namespace diffulex_edge::cli {

// While this lives, SIGINT and SIGTERM trigger a stop token; a second one ends the process at once. One at a time.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
  InterruptGuard(InterruptGuard&&) = delete;
  InterruptGuard& operator=(InterruptGuard&&) = delete;

  std::stop_token token() const { return stop_.get_token(); }
  // The signal that came, or 0.
  static int signal();
  // Whether Ctrl-C came: it then counts as if it had not, so that a conversation goes on. The token stays as it is.
  static bool take_interrupt();

 private:
  void watch(const std::stop_token& done);

  std::stop_source stop_;
  std::jthread watcher_;
};

// Ends this process with the signal's default action.
[[noreturn]] void die_of(int signal);

}  // namespace diffulex_edge::cli
