// The packed kernels for AVX-512 with VNNI: one vector for a panel's 16 rows.
#include "runtime/kernels/packed_kernels.h"

#ifdef __x86_64__

#include <hwy/base.h>
#include <hwy/cache_control.h>
#include <immintrin.h>

#include <cstring>

HWY_PUSH_ATTRIBUTES("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")

namespace diffulex_edge::kernels {
namespace {

struct Avx512Vnni {
  static constexpr std::size_t kVectors = 1;
  static constexpr std::size_t kTokens = 8;
  static constexpr std::size_t kPanels = 4;
  static constexpr bool kUnsigned8 = true;
  using Bytes = __m512i;
  using Input = __m512i;
  using Sum = __m512i;
  using Int = __m512i;
  using Float = __m512;

  static HWY_INLINE Bytes load(const std::uint8_t* bytes) { return _mm512_load_si512(bytes); }
  static HWY_INLINE Bytes low_nibbles(Bytes bytes) { return _mm512_and_si512(bytes, _mm512_set1_epi8(0x0F)); }
  static HWY_INLINE Bytes high_nibbles(Bytes bytes) { return low_nibbles(_mm512_srli_epi16(bytes, 4)); }
  static HWY_INLINE Bytes bytes8(Bytes bytes) { return bytes; }
  static HWY_INLINE Input input(const std::int8_t* values) {
    std::int32_t four = 0;
    std::memcpy(&four, values, sizeof(four));
    return _mm512_set1_epi32(four);
  }
  static HWY_INLINE Sum start(Int sum) { return sum; }
  static HWY_INLINE Sum dot4(Sum sum, Bytes weights, Input input) { return _mm512_dpbusd_epi32(sum, weights, input); }
  static HWY_INLINE Sum dot8(Sum sum, Bytes weights, Input input) { return dot4(sum, weights, input); }
  static HWY_INLINE Int total(Sum sum) { return sum; }

  static HWY_INLINE Int set_int(std::int32_t value) { return _mm512_set1_epi32(value); }
  static HWY_INLINE Int load_int(const std::int32_t* values) { return _mm512_loadu_si512(values); }
  static HWY_INLINE Int subtract_product(Int base, Int a, std::int32_t b) {
    return _mm512_sub_epi32(base, _mm512_mullo_epi32(a, _mm512_set1_epi32(b)));
  }

  static HWY_INLINE Float set_float(float value) { return _mm512_set1_ps(value); }
  static HWY_INLINE Float load_float(const float* values) { return _mm512_loadu_ps(values); }
  static HWY_INLINE Float load_bf16(const std::uint16_t* values) {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
  }
  static HWY_INLINE Float to_float(Int values) { return _mm512_cvtepi32_ps(values); }
  static HWY_INLINE Float multiply(Float a, Float b) { return _mm512_mul_ps(a, b); }
  static HWY_INLINE Float multiply_add(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
  static HWY_INLINE void store(Float values, float* target) { _mm512_storeu_ps(target, values); }

  template <PackedElement kElement>
  static HWY_INLINE Float column(const std::uint8_t* bytes, int index) {
    if constexpr (kElement == PackedElement::kF16) {
      return _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(bytes)));
    } else {
      constexpr int kMask = kElement == PackedElement::kI8 ? 0xFF : 0x0F;
      const auto shift = static_cast<unsigned>(index < 4 ? 8 * index : 8 * (index - 4) + 4);
      const Int q = _mm512_and_si512(_mm512_srli_epi32(load(bytes), shift), _mm512_set1_epi32(kMask));
      return to_float(_mm512_sub_epi32(q, _mm512_set1_epi32(kMask / 2 + 1)));
    }
  }
};

#include "runtime/kernels/packed_kernels-inl.h"

}  // namespace

const PackedKernels kAvx512VnniKernels = {.name = "AVX-512 VNNI",
                                          .multiply_integers = multiply_integers<Avx512Vnni>,
                                          .multiply_floats = multiply_floats<Avx512Vnni>};

}  // namespace diffulex_edge::kernels

HWY_POP_ATTRIBUTES

#endif
