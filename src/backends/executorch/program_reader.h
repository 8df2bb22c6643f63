// Reads an ExecuTorch program file, ours or another's.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "diffulex_edge/inspection.h"

namespace diffulex_edge::executorch {

// Whether the bytes begin like an ExecuTorch program.
bool is_program(std::span<const std::byte> file);

struct ProgramContents {
  std::vector<InspectedMethod> methods;  // those that compute
  std::vector<InspectedConstant> metadata;
  // Constants of a delegate or of the program itself: name, format and where the bytes are.
  std::vector<InspectedTensor> weights;  // without hashes
};

// Checks header, flatbuffers and every offset. `name` is the file's, for messages. Throws Error{kBadFile}.
ProgramContents read_program(std::span<const std::byte> file, const std::string& name);

}  // namespace diffulex_edge::executorch
