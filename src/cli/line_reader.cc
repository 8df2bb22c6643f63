#include "cli/line_reader.h"

#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>

#include "cli/console.h"
#include "cli/interrupt.h"

namespace diffulex_edge::cli {
namespace {

constexpr int kPollMilliseconds = 100;

// Bytes from stdin; less than one: the end, or a signal.
ssize_t read_some(std::array<char, 4096>& bytes) {
  while (true) {
    pollfd input{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
    const int ready = ::poll(&input, 1, kPollMilliseconds);
    if (InterruptGuard::signal() != 0) {
      return -1;
    }
    if (ready < 1) {
      continue;
    }
    const ssize_t size = ::read(STDIN_FILENO, bytes.data(), bytes.size());
    if (size >= 0 || (errno != EINTR && errno != EAGAIN)) {
      return size;
    }
  }
}

}  // namespace

bool LineReader::is_terminal() { return ::isatty(STDIN_FILENO) == 1; }

InputLine LineReader::read_piece(bool is_first) {
  if (editor_) {
    return editor_->read(is_first ? L"> " : L"  ");
  }
  if (is_terminal()) {
    print_message(is_first ? "> " : "  ");
  }
  std::size_t end = ahead_.find('\n');
  while (end == std::string::npos) {
    std::array<char, 4096> bytes{};
    const ssize_t size = read_some(bytes);
    if (size < 1 && InterruptGuard::take_interrupt()) {
      ahead_.clear();
      return {.kind = InputLine::Kind::kInterrupt, .text = {}};
    }
    if (size < 1) {
      const bool is_end = ahead_.empty() || InterruptGuard::signal() != 0;
      return {.kind = is_end ? InputLine::Kind::kEnd : InputLine::Kind::kText, .text = std::exchange(ahead_, {})};
    }
    const std::size_t searched = ahead_.size();
    ahead_.append(bytes.data(), static_cast<std::size_t>(size));
    end = ahead_.find('\n', searched);
  }
  InputLine line{.kind = InputLine::Kind::kText, .text = ahead_.substr(0, end)};
  ahead_.erase(0, end + 1);
  if (line.text.ends_with('\r')) {
    line.text.pop_back();
  }
  return line;
}

InputLine LineReader::read() {
  InputLine line = read_piece(true);
  while (line.kind == InputLine::Kind::kText && line.text.ends_with('\\')) {
    const InputLine next = read_piece(false);
    if (next.kind == InputLine::Kind::kInterrupt) {
      return next;
    }
    line.text.back() = '\n';
    line.text += next.text;
  }
  if (editor_ && line.kind == InputLine::Kind::kText && !line.text.empty()) {
    editor_->remember(line.text);
  }
  return line;
}

}  // namespace diffulex_edge::cli
