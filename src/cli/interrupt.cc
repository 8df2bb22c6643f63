#include "cli/interrupt.h"

#include <pthread.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): POSIX, sigset_t
#include <unistd.h>

#include <cstdlib>
#include <ctime>
#include <string_view>

namespace diffulex_edge::cli {
namespace {

constexpr int kExitBadFile = 3;

sigset_t interrupt_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
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
  const sigset_t set = interrupt_signals();
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  watcher_ = std::jthread([this](const std::stop_token& done) { watch(done); });
}

InterruptGuard::~InterruptGuard() {
  watcher_.request_stop();
  watcher_.join();
  const sigset_t set = interrupt_signals();
  ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

void InterruptGuard::watch(const std::stop_token& done) {
  constexpr std::timespec kPoll = {.tv_sec = 0, .tv_nsec = 20'000'000};
  const sigset_t set = interrupt_signals();
  while (!done.stop_requested()) {
    const int received = ::sigtimedwait(&set, nullptr, &kPoll);
    if (received <= 0) {
      continue;
    }
    if (signal_.exchange(received) != 0) {
      die_of(received);
    }
    stop_.request_stop();
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
