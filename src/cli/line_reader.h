// Lines that a person types, or that a pipe gives.
#pragma once

#include <memory>
#include <string>

#include "cli/line_editor.h"

namespace diffulex_edge::cli {

// In a terminal, lines are edited with their history, where the build has an editor; elsewhere they are read as they
// are. A line that ends with a backslash goes on in the next one.
class LineReader {
 public:
  LineReader() : editor_(LineEditor::make()) {}

  // Shows a prompt in a terminal.
  InputLine read();

  // Whether a person types.
  static bool is_terminal();

 private:
  InputLine read_piece(bool is_first);

  std::unique_ptr<LineEditor> editor_;
  std::string ahead_;  // read from a pipe, and not given yet
};

}  // namespace diffulex_edge::cli
