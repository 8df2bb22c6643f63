// What `--version --verbose` says of this machine.
#pragma once

#include <string>

namespace diffulex_edge::cli {

// Lines of "what: name" without a last newline: the kernels that run here and the processor's features that they are
// chosen by.
std::string describe_machine();

// As the operating system calls it; "unknown processor" where it doesn't.
std::string processor_name();
// Which the packed kernels use here.
std::string packed_instruction_set();

}  // namespace diffulex_edge::cli
