// The packed kernels for ARM64 with the dot-product instructions of ARMv8.2.
#include "runtime/kernels/packed_kernels.h"

#ifdef __aarch64__

#include <arm_neon.h>
#include <hwy/base.h>
#include <hwy/cache_control.h>

#include <cstring>

HWY_PUSH_ATTRIBUTES("arch=armv8.2-a+dotprod")

namespace diffulex_edge::kernels {
namespace {

#include "runtime/kernels/packed_kernels_neon-inl.h"

struct NeonDot : Neon {
  using Sum = int32x4_t;

  static HWY_INLINE Sum start(Int sum) { return sum; }
  static HWY_INLINE Sum dot8(Sum sum, int8x16_t weights, Input input) { return vdotq_s32(sum, weights, input); }
  static HWY_INLINE Sum dot4(Sum sum, int8x16_t weights, Input input) { return dot8(sum, weights, input); }
  static HWY_INLINE Int total(Sum sum) { return sum; }
};

// After the vectors that it uses.
#include "runtime/kernels/packed_kernels-inl.h"

}  // namespace

const PackedKernels kNeonDotKernels = {.name = "NEON with dot products",
                                       .multiply_integers = multiply_integers<NeonDot>,
                                       .multiply_floats = multiply_floats<NeonDot>};

}  // namespace diffulex_edge::kernels

HWY_POP_ATTRIBUTES

#endif
