// The vectors of ARM64 as packed_kernels-inl.h takes them: four for a panel's 16 rows. To be included as that is.

struct Neon {
  static constexpr std::size_t kVectors = 4;
  static constexpr std::size_t kTokens = 4;
  static constexpr std::size_t kPanels = 2;
  static constexpr bool kUnsigned8 = false;
  using Bytes = uint8x16_t;
  using Input = int8x16_t;
  using Int = int32x4_t;
  using Float = float32x4_t;
  // Two halves of each row's sum.
  struct Sum {
    int32x4_t first;
    int32x4_t second;
  };

  static HWY_INLINE Bytes load(const std::uint8_t* bytes) { return vld1q_u8(bytes); }
  static HWY_INLINE int8x16_t low_nibbles(Bytes bytes) {
    return vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(0x0F)));
  }
  static HWY_INLINE int8x16_t high_nibbles(Bytes bytes) { return vreinterpretq_s8_u8(vshrq_n_u8(bytes, 4)); }
  static HWY_INLINE int8x16_t bytes8(Bytes bytes) { return vreinterpretq_s8_u8(veorq_u8(bytes, vdupq_n_u8(0x80))); }
  static HWY_INLINE Input input(const std::int8_t* values) {
    std::int32_t four = 0;
    std::memcpy(&four, values, sizeof(four));
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
  }
  static HWY_INLINE Sum start(Int sum) { return {vzip1q_s32(sum, vdupq_n_s32(0)), vzip2q_s32(sum, vdupq_n_s32(0))}; }
  static HWY_INLINE Sum dot8(Sum sum, int8x16_t weights, Input input) {
    return {vpadalq_s16(sum.first, vmull_s8(vget_low_s8(weights), vget_low_s8(input))),
            vpadalq_s16(sum.second, vmull_high_s8(weights, input))};
  }
  static HWY_INLINE Sum dot4(Sum sum, int8x16_t weights, Input input) { return dot8(sum, weights, input); }
  static HWY_INLINE Int total(Sum sum) { return vpaddq_s32(sum.first, sum.second); }

  static HWY_INLINE Int set_int(std::int32_t value) { return vdupq_n_s32(value); }
  static HWY_INLINE Int load_int(const std::int32_t* values) { return vld1q_s32(values); }
  static HWY_INLINE Int subtract_product(Int base, Int a, std::int32_t b) { return vmlsq_s32(base, a, vdupq_n_s32(b)); }

  static HWY_INLINE Float set_float(float value) { return vdupq_n_f32(value); }
  static HWY_INLINE Float load_float(const float* values) { return vld1q_f32(values); }
  static HWY_INLINE Float load_bf16(const std::uint16_t* values) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(values), 16));
  }
  static HWY_INLINE Float to_float(Int values) { return vcvtq_f32_s32(values); }
  static HWY_INLINE Float multiply(Float a, Float b) { return vmulq_f32(a, b); }
  static HWY_INLINE Float multiply_add(Float a, Float b, Float c) { return vfmaq_f32(c, a, b); }
  static HWY_INLINE void store(Float values, float* target) { vst1q_f32(target, values); }

  template <PackedElement kElement>
  static HWY_INLINE Float column(const std::uint8_t* bytes, int index) {
    if constexpr (kElement == PackedElement::kF16) {
      return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const std::uint16_t*>(bytes))));
    } else {
      constexpr int kMask = kElement == PackedElement::kI8 ? 0xFF : 0x0F;
      const int shift = index < 4 ? 8 * index : 8 * (index - 4) + 4;
      const uint32x4_t shifted = vshlq_u32(vreinterpretq_u32_u8(load(bytes)), vdupq_n_s32(-shift));
      const Int q = vreinterpretq_s32_u32(vandq_u32(shifted, vdupq_n_u32(kMask)));
      return to_float(vsubq_s32(q, vdupq_n_s32(kMask / 2 + 1)));
    }
  }
};
