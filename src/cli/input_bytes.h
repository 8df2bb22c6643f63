// Bytes of stdin, as they come.
#pragma once

#include <functional>
#include <string>

namespace diffulex_edge::cli {

// Waits for bytes and appends them. False at the end of stdin, where it can't be read, and after a signal that
// InterruptGuard tells of. `meanwhile`, if any, is called before bytes are taken, and ten times a second at least.
bool read_input(std::string& bytes, const std::function<void()>& meanwhile = {});

}  // namespace diffulex_edge::cli
