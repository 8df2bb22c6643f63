// Editing of a line in a terminal.
#pragma once

#include <memory>
#include <string>

namespace diffulex_edge::cli {

struct InputLine {
  enum class Kind { kText, kInterrupt, kEnd };  // Ctrl-C, whose signal is taken; Ctrl-D or SIGTERM

  Kind kind = Kind::kEnd;
  std::string text;  // without the end of the line; a pasted text may have several lines
};

class LineEditor {
 public:
  LineEditor() = default;
  virtual ~LineEditor() = default;
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;
  LineEditor(LineEditor&&) = delete;
  LineEditor& operator=(LineEditor&&) = delete;

  // Reads from stdin, draws on stderr. Empty where the build has no editor, or stdin and stderr are no terminals. One
  // at a time.
  static std::unique_ptr<LineEditor> make();

  virtual InputLine read(const wchar_t* prompt) = 0;
  // What comes back with the arrow up.
  virtual void remember(const std::string& text) = 0;
};

}  // namespace diffulex_edge::cli
