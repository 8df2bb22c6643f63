#include "cli/interrupt.h"

#include <pthread.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): POSIX, sigset_t
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>

namespace diffulex_edge::cli {
namespace {

constexpr std::array kSignals = {SIGINT, SIGTERM};

// What came first. Threads that a library started before block nothing, so that any thread can be interrupted: a
// handler notes it, and the watcher acts.
std::atomic<int> received{0};
static_assert(std::atomic<int>::is_always_lock_free);

void on_interrupt(int signal) {
  int none = 0;
  if (!received.compare_exchange_strong(none, signal)) {  // once more: now
    ::signal(signal, SIG_DFL);
    ::raise(signal);
  }
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

bool InterruptGuard::take_interrupt() {
  int expected = SIGINT;
  return received.compare_exchange_strong(expected, 0);
}

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

}  // namespace diffulex_edge::cli
