#include "cli/input_bytes.h"

#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "cli/interrupt.h"

namespace diffulex_edge::cli {
namespace {

constexpr int kPollMilliseconds = 100;

}  // namespace

bool read_input(std::string& bytes, const std::function<void()>& meanwhile) {
  while (true) {
    pollfd input{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
    const int ready = ::poll(&input, 1, kPollMilliseconds);
    if (InterruptGuard::signal() != 0) {
      return false;
    }
    if (meanwhile) {
      meanwhile();
    }
    if (ready < 1) {
      continue;
    }
    std::array<char, 4096> piece{};
    const ssize_t size = ::read(STDIN_FILENO, piece.data(), piece.size());
    if (size > 0) {
      bytes.append(piece.data(), static_cast<std::size_t>(size));
      return true;
    }
    if (size == 0 || (errno != EINTR && errno != EAGAIN)) {
      return false;
    }
  }
}

}  // namespace diffulex_edge::cli
