#include "cli/progress_bar.h"

#include <fmt/core.h>
#include <unistd.h>

#include <string>
#include <utility>

#include "cli/console.h"

namespace diffulex_edge::cli {
namespace {

constexpr double kSilentSeconds = 0.5;  // short work shows nothing
constexpr double kLineSeconds = 5.0;    // between plain lines

}  // namespace

ProgressBar::ProgressBar(bool quiet) : quiet_(quiet), terminal_(::isatty(STDERR_FILENO) == 1) {}

void ProgressBar::end() {
  if (std::exchange(drawn_, false)) {
    print_message("\r\x1b[K");
  }
}

void ProgressBar::show(const Progress& progress) {
  const auto now = Clock::now();
  if (progress.stage != stage_) {
    stage_ = progress.stage;
    start_ = last_line_ = now;
  }
  const double seconds = std::chrono::duration<double>(now - start_).count();
  if (quiet_ || seconds < kSilentSeconds || progress.total_bytes == 0) {
    return;
  }
  if (!terminal_ && std::chrono::duration<double>(now - last_line_).count() < kLineSeconds) {
    return;
  }
  last_line_ = now;
  const auto done = static_cast<double>(progress.done_bytes);
  const auto total = static_cast<double>(progress.total_bytes);
  const double rate = done / seconds;
  const double left = rate > 0.0 ? (total - done) / rate : 0.0;
  std::string line = fmt::format("{} {:3.0f}%  ", progress.stage, 100.0 * done / total);
  if (progress.in_bytes) {
    line += fmt::format("{:.2f} of {:.2f} GB  {:.2f} GB/s  ", done / 1e9, total / 1e9, rate / 1e9);
  }
  line += fmt::format("{:.0f} s left", left);
  if (terminal_) {
    drawn_ = true;
    print_message("\r\x1b[K" + line);
  } else {
    print_message(line + "\n");
  }
}

}  // namespace diffulex_edge::cli
