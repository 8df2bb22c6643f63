// What a subcommand says: results on stdout, everything else on stderr.
#pragma once

#include <string_view>

namespace diffulex_edge::cli {

// One line (or several with their breaks) on stdout. Throws Error{kIo} if stdout takes no more: a full disk, a closed
// pipe. `flush_output` finds out about what is still buffered.
void print_line(std::string_view text);
// The same without a break behind it.
void print_text(std::string_view text);
void flush_output();

// `text` on stderr, at once and as it is. That nobody can be told is no reason to fail.
void print_message(std::string_view text) noexcept;

}  // namespace diffulex_edge::cli
