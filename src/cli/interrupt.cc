#include "cli/interrupt.h"

#include <pthread.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): POSIX, sigset_t
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <string_view>

namespace diffulex_edge::cli {
namespace {

constexpr int kExitBadFile = 3;

constexpr std::array kSignals = {SIGINT, SIGTERM};

// What came first. A library's threads may be older than ours and block nothing (OpenBLAS starts its own when it is
// loaded), so that any thread can be interrupted: a handler notes it, and the watcher acts.
std::atomic<int> received{0};
static_assert(std::atomic<int>::is_always_lock_free);

void on_interrupt(int signal) {
  int none = 0;
  if (!received.compare_exchange_strong(none, signal)) {  // once more: now
    ::signal(signal, SIG_DFL);
    ::raise(signal);
  }
}

void on_bus_error(int /*signal*/) {
  static std::atomic_flag said;
  while (said.test_and_set()) {
    ::pause();  // another thread got here first and is ending the process
  }
  constexpr std::string_view kMessage =
      "diffulex-edge: error: an input file was cut short while it was being read (copy it again)\n";
  const ssize_t ignored = ::write(STDERR_FILENO, kMessage.data(), kMessage.size());
  static_cast<void>(ignored);
  ::_exit(kExitBadFile);
}

}  // namespace

InterruptGuard::InterruptGuard() {
  for (const int signal : kSignals) {
    if (::signal(signal, on_interrupt) == SIG_IGN) {
      ::signal(signal, SIG_IGN);  // a caller's wish, such as nohup's
    }
  }
  watcher_ = std::jthread([this](const std::stop_token& done) { watch(done); });
}

InterruptGuard::~InterruptGuard() {
  watcher_.request_stop();
  watcher_.join();
  for (const int signal : kSignals) {
    if (::signal(signal, SIG_DFL) == SIG_IGN) {
      ::signal(signal, SIG_IGN);
    }
  }
}

int InterruptGuard::signal() { return received; }

void InterruptGuard::watch(const std::stop_token& done) {
  while (!done.stop_requested()) {
    if (received != 0) {
      stop_.request_stop();
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

void die_of(int signal) {
  ::signal(signal, SIG_DFL);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  ::kill(::getpid(), signal);
  std::abort();  // not reached: the default action ends the process
}

void explain_shrinking_files() { ::signal(SIGBUS, on_bus_error); }

}  // namespace diffulex_edge::cli
