// The two functions of Highway that its dispatch at run time calls, for a build that can't have libhwy.so beside it
// (the Python wheel, where Debian has no static one). hwy/targets.h says what they return; the extensions are those
// that hwy/ops/set_macros-inl.h compiles each target with. `diffulex-edge --version` prints the same with either.
#include <hwy/targets.h>

#include <cstdint>

namespace hwy {
namespace {

std::int64_t targets_of_this_cpu() {
  std::int64_t targets = HWY_STATIC_TARGET;
#if HWY_ARCH_X86_64
  // Each target includes the one before. GCC's check of AVX and AVX-512 includes the operating system's.
  const bool ssse3 = __builtin_cpu_supports("sse2") != 0 && __builtin_cpu_supports("ssse3") != 0;
  const bool sse4 = ssse3 && __builtin_cpu_supports("sse4.1") != 0 && __builtin_cpu_supports("sse4.2") != 0 &&
                    __builtin_cpu_supports("pclmul") != 0 && __builtin_cpu_supports("aes") != 0;
  const bool avx2 = sse4 && __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("bmi") != 0 &&
                    __builtin_cpu_supports("bmi2") != 0 && __builtin_cpu_supports("fma") != 0 &&
                    __builtin_cpu_supports("f16c") != 0 && __builtin_cpu_supports("lzcnt") != 0;
  const bool avx3 = avx2 && __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512vl") != 0 &&
                    __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
                    __builtin_cpu_supports("avx512cd") != 0;
  targets |= (ssse3 ? HWY_SSSE3 : 0) | (sse4 ? HWY_SSE4 : 0) | (avx2 ? HWY_AVX2 : 0) | (avx3 ? HWY_AVX3 : 0);
#endif
  return targets & HWY_TARGETS;
}

}  // namespace

std::int64_t SupportedTargets() {
  static const std::int64_t targets = targets_of_this_cpu();
  return targets;
}

ChosenTarget& GetChosenTarget() {
  static ChosenTarget chosen;
  return chosen;
}

}  // namespace hwy
