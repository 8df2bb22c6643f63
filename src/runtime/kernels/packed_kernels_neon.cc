// The packed kernels for every ARM64 processor.
#include "runtime/kernels/packed_kernels.h"

#ifdef __aarch64__

#include <arm_neon.h>
#include <hwy/base.h>
#include <hwy/cache_control.h>

#include <cstring>

namespace diffulex_edge::kernels {
namespace {

#include "runtime/kernels/packed_kernels_neon-inl.h"
// After the vectors that it uses.
#include "runtime/kernels/packed_kernels-inl.h"

}  // namespace

const PackedKernels kNeonKernels = {
    .name = "NEON", .multiply_integers = multiply_integers<Neon>, .multiply_floats = multiply_floats<Neon>};

}  // namespace diffulex_edge::kernels

#endif
