#include "cli/console.h"

#include <cstdio>

#include "diffulex_edge/error.h"

namespace diffulex_edge::cli {
namespace {

bool write(std::FILE* stream, std::string_view text) noexcept {
  return std::fwrite(text.data(), 1, text.size(), stream) == text.size();
}

[[noreturn]] void throw_unwritable() { throw Error(ErrorCode::kIo, "stdout", "could not be written"); }

}  // namespace

void print_line(std::string_view text) {
  if (!write(stdout, text) || !write(stdout, "\n")) {
    throw_unwritable();
  }
}

void print_text(std::string_view text) {
  if (!write(stdout, text)) {
    throw_unwritable();
  }
}

void flush_output() {
  if (std::fflush(stdout) != 0) {
    throw_unwritable();
  }
}

void print_message(std::string_view text) noexcept {
  if (write(stderr, text)) {
    std::fflush(stderr);
  }
}

}  // namespace diffulex_edge::cli
