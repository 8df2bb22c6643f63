// Executes a written program in double precision: the operators outside the delegate and the delegate's nodes, as
// ExecuTorch and XNNPACK define them. Conversions to FP16 and to 8-bit activations round nothing, so that what comes
// out depends on the file's weights and structure only; static 8-bit activations are clamped to their range.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "support/interpreter.h"

namespace diffulex_edge::testing {

// The method's output for `ids`. Throws std::logic_error for what the runtime would refuse: unknown operators, shapes
// that leave their bounds, missing data.
Array run_program(const std::string& pte, const std::vector<std::int64_t>& ids);

}  // namespace diffulex_edge::testing
