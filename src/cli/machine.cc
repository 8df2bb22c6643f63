#include "cli/machine.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>

#include "core/kernels/matrix_kernels.h"
#include "diffulex_edge/version.h"
#include "runtime/kernels/packed_kernels.h"

namespace diffulex_edge::cli {
namespace {

// What kernels are chosen by, as the operating system spells it.
constexpr std::array<std::string_view, 17> kChosenBy = {
    "sse2",     "ssse3",    "sse4_1",   "sse4_2",   "avx2",        "fma",   "f16c",    "bmi2",   "avx512f",
    "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_vnni", "asimd", "asimdhp", "asimddp"};

// Those of this processor, with spaces between; "unknown" where the operating system does not say.
std::string processor_features() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("flags") && !line.starts_with("Features")) {
      continue;
    }
    std::istringstream words(line.substr(std::min(line.find(':'), line.size() - 1) + 1));
    std::string features;
    for (std::string word; words >> word;) {
      if (std::ranges::find(kChosenBy, word) != kChosenBy.end()) {
        features += (features.empty() ? "" : " ") + word;
      }
    }
    return features;
  }
  return "unknown";
}

}  // namespace

std::string describe_machine() {
  return fmt::format("quantization: {}\nmatrix products: {}{}\npacked weights: {}\nprocessor: {}", instruction_set(),
                     kernels::matrix_instruction_set(),
                     kernels::matrix_products_are_fused() ? "" : ", without fused multiply-adds",
                     kernels::supported_packed_kernels().front().name, processor_features());
}

}  // namespace diffulex_edge::cli
