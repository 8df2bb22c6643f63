#include "cli/machine.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <initializer_list>
#include <optional>
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

// What the operating system says of this processor under one of these names; nothing where it doesn't.
std::optional<std::string> processor_fact(std::initializer_list<std::string_view> names) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (std::ranges::any_of(names, [&](std::string_view name) { return line.starts_with(name); })) {
      const std::size_t colon = line.find(':');
      const std::size_t value = colon == std::string::npos ? colon : line.find_first_not_of(' ', colon + 1);
      return value == std::string::npos ? std::string() : line.substr(value);
    }
  }
  return std::nullopt;
}

// Those of this processor, with spaces between.
std::string processor_features() {
  const std::optional<std::string> all = processor_fact({"flags", "Features"});
  if (!all) {
    return "unknown";
  }
  std::istringstream words(*all);
  std::string features;
  for (std::string word; words >> word;) {
    if (std::ranges::find(kChosenBy, word) != kChosenBy.end()) {
      features += (features.empty() ? "" : " ") + word;
    }
  }
  return features;
}

}  // namespace

std::string describe_machine() {
  return fmt::format("quantization: {}\nmatrix products: {}{}\npacked weights: {}\nprocessor: {}", instruction_set(),
                     kernels::matrix_instruction_set(),
                     kernels::matrix_products_are_fused() ? "" : ", without fused multiply-adds",
                     packed_instruction_set(), processor_features());
}

std::string processor_name() { return processor_fact({"model name", "Model"}).value_or("unknown processor"); }

std::string packed_instruction_set() { return kernels::supported_packed_kernels().front().name; }

}  // namespace diffulex_edge::cli
