// SIMD kernels that change the width of floats: binary16 and bfloat16 to float and back.
//
// This file is compiled once for each instruction set (foreach_target) and dispatched at run time.
#include "quant/kernels/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/kernels/kernels_cast.cc"
#include <hwy/foreach_target.h>  // must come before highway.h
// clang-format off
#include <hwy/highway.h>
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace diffulex_edge::kernels::HWY_NAMESPACE {

// One-lane and emulated targets gain nothing over the twins.
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128

void F16ToF32(const std::uint16_t* source, float* target, std::size_t n) { scalar::f16_to_f32(source, target, n); }
void Bf16ToF32(const std::uint16_t* source, float* target, std::size_t n) { scalar::bf16_to_f32(source, target, n); }
void F32ToF16(const float* source, std::uint16_t* target, std::size_t n) { scalar::f32_to_f16(source, target, n); }
void F32ToF16Saturate(const float* source, std::uint16_t* target, std::size_t n) {
  scalar::f32_to_f16_saturate(source, target, n);
}
void F32ToBf16(const float* source, std::uint16_t* target, std::size_t n) { scalar::f32_to_bf16(source, target, n); }

#else

namespace hn = hwy::HWY_NAMESPACE;

using Float = hn::ScalableTag<float>;
using Bits = hn::RebindToUnsigned<Float>;
using Bits16 = hn::Rebind<std::uint16_t, Float>;
using FloatVector = hn::Vec<Float>;
using BitsVector = hn::Vec<Bits>;
using Bits16Vector = hn::Vec<Bits16>;

// Highway's own conversion truncates and loses infinities where the instruction set has none (SSSE3, SSE4), so those
// targets do the bit arithmetic here.
#if (HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2 && !defined(HWY_DISABLE_F16C)) || HWY_ARCH_ARM_A64

HWY_INLINE FloatVector Widen16(Bits16Vector half) {
  const hn::Rebind<hwy::float16_t, Float> df16;
  return hn::PromoteTo(Float(), hn::BitCast(df16, half));
}

HWY_INLINE Bits16Vector Narrow16(FloatVector value) {
  const hn::Rebind<hwy::float16_t, Float> df16;
  return hn::BitCast(Bits16(), hn::DemoteTo(df16, value));
}

#else

HWY_INLINE FloatVector Widen16(Bits16Vector half) {
  const Float df;
  const Bits du;
  const BitsVector bits = hn::PromoteTo(du, half);
  const BitsVector sign = hn::ShiftLeft<16>(hn::And(bits, hn::Set(du, 0x8000U)));
  const BitsVector magnitude = hn::And(bits, hn::Set(du, 0x7FFFU));
  // Moved into place, the exponent is 112 too small. The product is exact and normalizes subnormals.
  const FloatVector finite = hn::Mul(hn::BitCast(df, hn::ShiftLeft<13>(magnitude)), hn::Set(df, 0x1p112F));
  const BitsVector special = hn::Or(hn::ShiftLeft<13>(magnitude), hn::Set(du, 0x7F800000U));
  const auto is_special = hn::Gt(magnitude, hn::Set(du, 0x7BFFU));
  const auto is_nan = hn::Gt(magnitude, hn::Set(du, 0x7C00U));
  const BitsVector quiet = hn::IfThenElseZero(is_nan, hn::Set(du, 0x400000U));
  const BitsVector result = hn::IfThenElse(is_special, hn::Or(special, quiet), hn::BitCast(du, finite));
  return hn::BitCast(df, hn::Or(result, sign));
}

HWY_INLINE Bits16Vector Narrow16(FloatVector value) {
  const Float df;
  const Bits du;
  const BitsVector bits = hn::BitCast(du, value);
  const BitsVector magnitude = hn::And(bits, hn::Set(du, 0x7FFFFFFFU));
  const BitsVector sign = hn::ShiftRight<16>(hn::Xor(bits, magnitude));

  const BitsVector odd = hn::And(hn::ShiftRight<13>(magnitude), hn::Set(du, 1U));
  const BitsVector rebias = hn::Set(du, 0xFFFU - (112U << 23U));
  const BitsVector normal = hn::ShiftRight<13>(hn::Add(hn::Add(magnitude, rebias), odd));
  // Adding 0.5 aligns the last bit of a float with 2^-24, the step of binary16's subnormals: the sum is rounded there.
  const FloatVector half = hn::Set(df, 0.5F);
  const BitsVector subnormal =
      hn::Sub(hn::BitCast(du, hn::Add(hn::BitCast(df, magnitude), half)), hn::BitCast(du, half));
  const BitsVector nan = hn::Or(hn::And(hn::ShiftRight<13>(magnitude), hn::Set(du, 0x1FFU)), hn::Set(du, 0x7E00U));

  BitsVector result = hn::IfThenElse(hn::Lt(magnitude, hn::Set(du, 0x38800000U)), subnormal, normal);
  result = hn::IfThenElse(hn::Gt(magnitude, hn::Set(du, 0x477FEFFFU)), hn::Set(du, 0x7C00U), result);
  result = hn::IfThenElse(hn::Gt(magnitude, hn::Set(du, 0x7F800000U)), nan, result);
  return hn::TruncateTo(Bits16(), hn::Or(result, sign));
}

#endif

HWY_INLINE FloatVector WidenBf16(Bits16Vector half) {
  const Float df;
  const Bits du;
  const BitsVector bits = hn::ShiftLeft<16>(hn::PromoteTo(du, half));
  const auto is_nan = hn::IsNaN(hn::BitCast(df, bits));
  const BitsVector quiet = hn::IfThenElseZero(hn::RebindMask(du, is_nan), hn::Set(du, 0x400000U));
  return hn::BitCast(df, hn::Or(bits, quiet));
}

HWY_INLINE FloatVector ClampTo16(FloatVector value) {
  const FloatVector limit = hn::Set(Float(), kMaxFinite16);
  return hn::IfThenElse(hn::Gt(hn::Abs(value), limit), hn::CopySignToAbs(limit, value), value);
}

HWY_INLINE Bits16Vector NarrowBf16(FloatVector value) {
  const Bits du;
  const BitsVector bits = hn::BitCast(du, value);
  const BitsVector high = hn::ShiftRight<16>(bits);
  const BitsVector odd = hn::And(high, hn::Set(du, 1U));
  const BitsVector rounded = hn::ShiftRight<16>(hn::Add(hn::Add(bits, hn::Set(du, 0x7FFFU)), odd));
  const BitsVector quiet = hn::Or(high, hn::Set(du, 0x40U));
  const auto is_nan = hn::RebindMask(du, hn::IsNaN(value));
  return hn::TruncateTo(Bits16(), hn::IfThenElse(is_nan, quiet, rounded));
}

// Applies `convert` to whole vectors and returns how many elements that covered.
template <class Convert>
HWY_INLINE std::size_t WidenVectors(const std::uint16_t* HWY_RESTRICT source, float* HWY_RESTRICT target, std::size_t n,
                                    const Convert& convert) {
  const Float df;
  const Bits16 du16;
  const std::size_t lanes = hn::Lanes(df);
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(convert(hn::LoadU(du16, source + i)), df, target + i);
  return i;
}

template <class Convert>
HWY_INLINE std::size_t NarrowVectors(const float* HWY_RESTRICT source, std::uint16_t* HWY_RESTRICT target,
                                     std::size_t n, const Convert& convert) {
  const Float df;
  const Bits16 du16;
  const std::size_t lanes = hn::Lanes(df);
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(convert(hn::LoadU(df, source + i)), du16, target + i);
  return i;
}

void F16ToF32(const std::uint16_t* source, float* target, std::size_t n) {
  const std::size_t i = WidenVectors(source, target, n, [](Bits16Vector half) HWY_ATTR { return Widen16(half); });
  scalar::f16_to_f32(source + i, target + i, n - i);
}

void Bf16ToF32(const std::uint16_t* source, float* target, std::size_t n) {
  const std::size_t i = WidenVectors(source, target, n, [](Bits16Vector half) HWY_ATTR { return WidenBf16(half); });
  scalar::bf16_to_f32(source + i, target + i, n - i);
}

void F32ToF16(const float* source, std::uint16_t* target, std::size_t n) {
  const std::size_t i = NarrowVectors(source, target, n, [](FloatVector value) HWY_ATTR { return Narrow16(value); });
  scalar::f32_to_f16(source + i, target + i, n - i);
}

void F32ToF16Saturate(const float* source, std::uint16_t* target, std::size_t n) {
  const std::size_t i =
      NarrowVectors(source, target, n, [](FloatVector value) HWY_ATTR { return Narrow16(ClampTo16(value)); });
  scalar::f32_to_f16_saturate(source + i, target + i, n - i);
}

void F32ToBf16(const float* source, std::uint16_t* target, std::size_t n) {
  const std::size_t i = NarrowVectors(source, target, n, [](FloatVector value) HWY_ATTR { return NarrowBf16(value); });
  scalar::f32_to_bf16(source + i, target + i, n - i);
}

#endif

}  // namespace diffulex_edge::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace diffulex_edge::kernels {

HWY_EXPORT(F16ToF32);
HWY_EXPORT(Bf16ToF32);
HWY_EXPORT(F32ToF16);
HWY_EXPORT(F32ToF16Saturate);
HWY_EXPORT(F32ToBf16);

void f16_to_f32(const std::uint16_t* source, float* target, std::size_t n) {
  HWY_DYNAMIC_DISPATCH(F16ToF32)(source, target, n);
}

void bf16_to_f32(const std::uint16_t* source, float* target, std::size_t n) {
  HWY_DYNAMIC_DISPATCH(Bf16ToF32)(source, target, n);
}

void f32_to_f16(const float* source, std::uint16_t* target, std::size_t n) {
  HWY_DYNAMIC_DISPATCH(F32ToF16)(source, target, n);
}

void f32_to_f16_saturate(const float* source, std::uint16_t* target, std::size_t n) {
  HWY_DYNAMIC_DISPATCH(F32ToF16Saturate)(source, target, n);
}

void f32_to_bf16(const float* source, std::uint16_t* target, std::size_t n) {
  HWY_DYNAMIC_DISPATCH(F32ToBf16)(source, target, n);
}

}  // namespace diffulex_edge::kernels
#endif
