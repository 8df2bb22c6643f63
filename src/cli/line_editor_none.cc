#include "cli/line_editor.h"

namespace diffulex_edge::cli {

std::unique_ptr<LineEditor> LineEditor::make() { return nullptr; }

}  // namespace diffulex_edge::cli
