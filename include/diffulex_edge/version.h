#pragma once

#include <string_view>

namespace diffulex_edge {

// "MAJOR.MINOR.PATCH"
std::string_view version();
// The SIMD instruction set that the kernels use on this machine, such as "AVX3" or "NEON".
std::string_view instruction_set();

}  // namespace diffulex_edge
