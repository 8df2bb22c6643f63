#include "cli/canvas_view.h"

#include <fmt/core.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <utf8proc.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "cli/console.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge::cli {
namespace {

constexpr std::string_view kMasked = "\xE2\x96\x91";  // LIGHT SHADE
constexpr int kUsualColumns = 80;

int terminal_columns() {
  winsize size{};
  const bool is_known = ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return is_known ? size.ws_col : kUsualColumns;
}

std::string canvas_text(const GenerationState& state, const Tokenizer& tokenizer) {
  std::string text;
  std::vector<std::int64_t> written;
  const auto flush = [&] {
    text += text.empty() ? tokenizer.decode(written) : tokenizer.decode_continuation(written);
    written.clear();
  };
  for (std::int64_t i = state.begin; i < state.end; ++i) {
    const auto at = static_cast<std::size_t>(i);
    if (!state.masked[at]) {
      written.push_back(state.tokens[at]);
      continue;
    }
    flush();
    text += kMasked;
  }
  flush();
  return text;
}

// Wrapped at the terminal's width, and without what would move its cursor.
std::string wrapped(std::string_view text, int columns) {
  std::string result;
  int column = 0;
  while (!text.empty()) {
    utf8proc_int32_t character = 0;
    const utf8proc_ssize_t length = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                                     static_cast<utf8proc_ssize_t>(text.size()), &character);
    if (length < 1) {
      break;  // decoded text is valid
    }
    const std::string_view bytes = text.substr(0, static_cast<std::size_t>(length));
    text.remove_prefix(bytes.size());
    if (character == '\n') {
      result += '\n';
      column = 0;
      continue;
    }
    const int width = utf8proc_charwidth(character);
    if (column + width > columns) {
      result += '\n';
      column = 0;
    }
    const bool is_control = utf8proc_category(character) == UTF8PROC_CATEGORY_CC;
    result += is_control ? std::string_view(" ") : bytes;
    column += std::max(width, is_control ? 1 : 0);
  }
  return result;
}

}  // namespace

CanvasView::CanvasView(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {
  if (::isatty(STDOUT_FILENO) != 1) {
    throw Error(ErrorCode::kInvalidArgument, "--visual", "needs a terminal to draw in", "leave it out");
  }
}

void CanvasView::clear() {
  if (lines_ > 0) {
    print_text(fmt::format("\x1b[{}A\r\x1b[J", lines_));
    lines_ = 0;
  }
  flush_output();
}

void CanvasView::show(const GenerationState& state) {
  const std::string text = wrapped(canvas_text(state, tokenizer_), terminal_columns()) + "\n";
  if (lines_ > 0) {
    print_text(fmt::format("\x1b[{}A\r\x1b[J", lines_));
  }
  print_text(text);
  lines_ = static_cast<std::size_t>(std::ranges::count(text, '\n'));
  flush_output();
}

}  // namespace diffulex_edge::cli
