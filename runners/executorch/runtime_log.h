// What ExecuTorch says of an error, which is more than its code.
#pragma once

#include <string>

namespace diffulex_edge::runner {

// The runtime writes to stderr until this is called; from then on its errors are kept for runtime_message(). Once for a
// process, before anything else of the runtime.
void start_runtime();

// The first of them since forget_runtime_messages(), or `otherwise`.
std::string runtime_message(const char* otherwise);
void forget_runtime_messages();

}  // namespace diffulex_edge::runner
