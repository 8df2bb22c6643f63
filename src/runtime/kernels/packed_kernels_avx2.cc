// The packed kernels for AVX2: two vectors for a panel's 16 rows.
#include "runtime/kernels/packed_kernels.h"

#ifdef __x86_64__

#include <hwy/base.h>
#include <hwy/cache_control.h>
#include <immintrin.h>

#include <cstring>

HWY_PUSH_ATTRIBUTES("avx2,fma,f16c")

namespace diffulex_edge::kernels {
namespace {

struct Avx2 {
  static constexpr std::size_t kVectors = 2;
  static constexpr std::size_t kTokens = 4;
  static constexpr std::size_t kPanels = 2;
  static constexpr bool kUnsigned8 = true;
  using Bytes = __m256i;
  // Bytes 0 and 2, and 1 and 3, of each row, in 16 bits.
  struct Wide {
    __m256i even;
    __m256i odd;
  };
  using Input = __m256i;
  using Sum = __m256i;
  using Int = __m256i;
  using Float = __m256;

  static HWY_INLINE Bytes load(const std::uint8_t* bytes) {
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(bytes));
  }
  static HWY_INLINE Bytes low_nibbles(Bytes bytes) { return _mm256_and_si256(bytes, _mm256_set1_epi8(0x0F)); }
  static HWY_INLINE Bytes high_nibbles(Bytes bytes) { return low_nibbles(_mm256_srli_epi16(bytes, 4)); }
  static HWY_INLINE Wide bytes8(Bytes bytes) {
    return {_mm256_and_si256(bytes, _mm256_set1_epi16(0xFF)), _mm256_srli_epi16(bytes, 8)};
  }
  static HWY_INLINE Input input(const std::int8_t* values) {
    std::int32_t four = 0;
    std::memcpy(&four, values, sizeof(four));
    return _mm256_set1_epi32(four);
  }
  static HWY_INLINE Sum start(Int sum) { return sum; }
  // Eight pairs of products of 4 and 8 bits fit in 16: 8 * 2 * 15 * 128 = 30720.
  static constexpr std::size_t kPairSteps = 4;
  using Pairs = __m256i;
  static HWY_INLINE Pairs zero_pairs() { return _mm256_setzero_si256(); }
  static HWY_INLINE Pairs dot_pairs(Pairs pairs, Bytes weights, Input input) {
    return _mm256_add_epi16(pairs, _mm256_maddubs_epi16(weights, input));
  }
  static HWY_INLINE Sum widen(Pairs pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }
  static HWY_INLINE Sum add(Sum a, Sum b) { return _mm256_add_epi32(a, b); }
  // Those of 8 and 8 bits do not.
  static HWY_INLINE Sum dot8(Sum sum, Wide weights, Input input) {
    const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(input, 8), 8);
    const __m256i odd = _mm256_srai_epi16(input, 8);
    const __m256i products =
        _mm256_add_epi32(_mm256_madd_epi16(weights.even, even), _mm256_madd_epi16(weights.odd, odd));
    return _mm256_add_epi32(sum, products);
  }
  static HWY_INLINE Int total(Sum sum) { return sum; }

  static HWY_INLINE Int set_int(std::int32_t value) { return _mm256_set1_epi32(value); }
  static HWY_INLINE Int load_int(const std::int32_t* values) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
  }
  static HWY_INLINE Int subtract_product(Int base, Int a, std::int32_t b) {
    return _mm256_sub_epi32(base, _mm256_mullo_epi32(a, _mm256_set1_epi32(b)));
  }

  static HWY_INLINE Float set_float(float value) { return _mm256_set1_ps(value); }
  static HWY_INLINE Float load_float(const float* values) { return _mm256_loadu_ps(values); }
  static HWY_INLINE Float load_bf16(const std::uint16_t* values) {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
  }
  static HWY_INLINE Float to_float(Int values) { return _mm256_cvtepi32_ps(values); }
  static HWY_INLINE Float multiply(Float a, Float b) { return _mm256_mul_ps(a, b); }
  static HWY_INLINE Float multiply_add(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
  static HWY_INLINE void store(Float values, float* target) { _mm256_storeu_ps(target, values); }

  template <PackedElement kElement>
  static HWY_INLINE Float column(const std::uint8_t* bytes, int index) {
    if constexpr (kElement == PackedElement::kF16) {
      return _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes)));
    } else {
      constexpr int kMask = kElement == PackedElement::kI8 ? 0xFF : 0x0F;
      const int shift = index < 4 ? 8 * index : 8 * (index - 4) + 4;
      const Int q = _mm256_and_si256(_mm256_srli_epi32(load(bytes), shift), _mm256_set1_epi32(kMask));
      return to_float(_mm256_sub_epi32(q, _mm256_set1_epi32(kMask / 2 + 1)));
    }
  }
};

#include "runtime/kernels/packed_kernels-inl.h"

}  // namespace

const PackedKernels kAvx2Kernels = {
    .name = "AVX2", .multiply_integers = multiply_integers<Avx2>, .multiply_floats = multiply_floats<Avx2>};

}  // namespace diffulex_edge::kernels

HWY_POP_ATTRIBUTES

#endif
