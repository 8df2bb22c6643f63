// Which kernels this machine can run.
#include "runtime/kernels/packed_kernels.h"

#include <vector>

#ifdef __aarch64__
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace diffulex_edge::kernels {
namespace {

std::vector<PackedKernels> find_supported() {
  std::vector<PackedKernels> supported;
#ifdef __x86_64__
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (avx2 && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni")) {
    supported.push_back(kAvx512VnniKernels);
  }
  if (avx2) {
    supported.push_back(kAvx2Kernels);
  }
#elif defined(__aarch64__)
  if ((getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0) {
    supported.push_back(kNeonDotKernels);
  }
  supported.push_back(kNeonKernels);
#endif
  supported.push_back(
      {.name = "scalar", .multiply_integers = scalar::multiply_integers, .multiply_floats = scalar::multiply_floats});
  return supported;
}

}  // namespace

std::span<const PackedKernels> supported_packed_kernels() {
  static const std::vector<PackedKernels> supported = find_supported();
  return supported;
}

}  // namespace diffulex_edge::kernels
