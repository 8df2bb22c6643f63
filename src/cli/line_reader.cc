#include "cli/line_reader.h"

#include <unistd.h>

#include <utility>

#include "cli/console.h"
#include "cli/input_bytes.h"
#include "cli/interrupt.h"

namespace diffulex_edge::cli {

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
    const std::size_t searched = ahead_.size();
    if (!read_input(ahead_)) {
      std::string rest = std::exchange(ahead_, {});
      if (InterruptGuard::take_interrupt()) {
        return {.kind = InputLine::Kind::kInterrupt, .text = {}};
      }
      const bool is_end = rest.empty() || InterruptGuard::signal() != 0;
      return {.kind = is_end ? InputLine::Kind::kEnd : InputLine::Kind::kText, .text = std::move(rest)};
    }
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
