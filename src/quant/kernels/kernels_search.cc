// SIMD kernels that search scales: errors of many scales at once, and the sums of half-quadratic quantization.
//
// This file is compiled once for each instruction set (foreach_target) and dispatched at run time.
#include <algorithm>
#include <array>

#include "quant/kernels/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/kernels/kernels_search.cc"
#include <hwy/foreach_target.h>  // must come before highway.h
// clang-format off
#include <hwy/highway.h>
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace diffulex_edge::kernels::HWY_NAMESPACE {

// One-lane and emulated targets gain nothing over the twins.
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128

void F32SquaredErrors(const float* source, const float* importance, std::size_t n, const float* scales, float* errors,
                      std::size_t count, float low, float high) {
  scalar::f32_squared_errors(source, importance, n, scales, errors, count, low, high);
}
HalfQuadraticSums F32HalfQuadraticSums(const float* source, std::size_t n, float scale, float beta, float p, float low,
                                       float high) {
  return scalar::f32_half_quadratic_sums(source, n, scale, beta, p, low, high);
}

#else

namespace hn = hwy::HWY_NAMESPACE;

using Float = hn::ScalableTag<float>;
using FloatVector = hn::Vec<Float>;

// Adding and subtracting 1.5 * 2^23 rounds to nearest even, for what was clamped to a few bits.
template <class D, class V = hn::Vec<D> >
HWY_INLINE V RoundClamped(D d, V value, V low, V high) {
  const V magic = hn::Set(d, 12582912.0F);
  return hn::Sub(hn::Add(hn::Min(hn::Max(value, low), high), magic), magic);
}

struct Bounds {
  float low;
  float high;
};

HWY_INLINE FloatVector SquaredError(FloatVector value, FloatVector scale, FloatVector inverse, FloatVector low,
                                    FloatVector high) {
  const FloatVector q = RoundClamped(Float(), hn::Mul(value, inverse), low, high);
  const FloatVector error = hn::Sub(value, hn::Mul(q, scale));
  return hn::Mul(error, error);
}

// Each lane has a scale of its own and sees the weights in order: no lane is folded, and the sums are the twin's. One
// vector keeps the units busy, as all but the last addition of a weight is independent of the weight before.
template <bool kWeighted>
HWY_INLINE void ErrorsOfVector(const float* HWY_RESTRICT source, const float* HWY_RESTRICT importance, std::size_t n,
                               const float* scales, float* errors, Bounds bounds) {
  const Float df;
  const FloatVector low = hn::Set(df, bounds.low);
  const FloatVector high = hn::Set(df, bounds.high);
  const FloatVector scale = hn::LoadU(df, scales);
  const FloatVector inverse = hn::Div(hn::Set(df, 1.0F), scale);
  FloatVector sum = hn::Zero(df);
  for (std::size_t i = 0; i < n; ++i) {
    FloatVector error = SquaredError(hn::Set(df, source[i]), scale, inverse, low, high);
    if constexpr (kWeighted) error = hn::Mul(error, hn::Set(df, importance[i]));
    sum = hn::Add(sum, error);
  }
  hn::StoreU(sum, df, errors);
}

template <bool kWeighted>
HWY_INLINE void SquaredErrors(const float* source, const float* importance, std::size_t n, const float* scales,
                              float* errors, std::size_t count, Bounds bounds) {
  const std::size_t lanes = hn::Lanes(Float());
  std::size_t k = 0;
  for (; k + lanes <= count; k += lanes) {
    ErrorsOfVector<kWeighted>(source, importance, n, scales + k, errors + k, bounds);
  }
  if (k < count) {
    HWY_ALIGN float last_scales[hn::MaxLanes(Float())];
    HWY_ALIGN float last_errors[hn::MaxLanes(Float())];
    std::fill(last_scales, last_scales + lanes, 1.0F);
    std::copy(scales + k, scales + count, last_scales);
    ErrorsOfVector<kWeighted>(source, importance, n, last_scales, last_errors, bounds);
    std::copy(last_errors, last_errors + (count - k), errors + k);
  }
}

void F32SquaredErrors(const float* source, const float* importance, std::size_t n, const float* scales, float* errors,
                      std::size_t count, float low, float high) {
  if (importance == nullptr) return SquaredErrors<false>(source, nullptr, n, scales, errors, count, {low, high});
  SquaredErrors<true>(source, importance, n, scales, errors, count, {low, high});
}

// --- Half-quadratic quantization.

constexpr std::size_t kSums = 16;
using Float16 = hn::CappedTag<float, kSums>;
using Vector16 = hn::Vec<Float16>;

// As in the twin, operation by operation.
HWY_INLINE Vector16 Power(Vector16 magnitude, Vector16 exponent) {
  const Float16 df;
  const hn::RebindToUnsigned<Float16> du;
  const hn::RebindToSigned<Float16> di;
  const auto sqrt_half = hn::Set(du, 0x3F3504F3U);
  const auto shifted = hn::Sub(hn::BitCast(du, hn::Max(magnitude, hn::Set(df, 0x1p-40F))), sqrt_half);
  const Vector16 whole = hn::ConvertTo(df, hn::ShiftRight<23>(hn::BitCast(di, shifted)));
  const Vector16 m = hn::BitCast(df, hn::Add(hn::And(shifted, hn::Set(du, 0x7FFFFFU)), sqrt_half));
  const Vector16 one = hn::Set(df, 1.0F);
  const Vector16 t = hn::Div(hn::Sub(m, one), hn::Add(m, one));
  const Vector16 tt = hn::Mul(t, t);
  Vector16 series = hn::Add(hn::Mul(tt, hn::Set(df, kLog2[3])), hn::Set(df, kLog2[2]));
  series = hn::Add(hn::Mul(series, tt), hn::Set(df, kLog2[1]));
  const Vector16 log2 = hn::Add(hn::Mul(hn::Mul(series, tt), t), hn::Mul(hn::Set(df, kLog2[0]), t));
  const Vector16 power = hn::Mul(hn::Add(whole, log2), exponent);
  const Vector16 magic = hn::Set(df, 12582912.0F);
  const Vector16 rounded = hn::Sub(hn::Add(power, magic), magic);
  const Vector16 f = hn::Sub(power, rounded);
  Vector16 result = hn::Set(df, kExp2[5]);
  for (std::size_t i = 5; i-- > 0;) result = hn::Add(hn::Mul(result, f), hn::Set(df, kExp2[i]));
  const auto scale = hn::ShiftLeft<23>(hn::Add(hn::ConvertTo(di, rounded), hn::Set(di, 127)));
  return hn::Mul(result, hn::BitCast(df, scale));
}

HWY_INLINE float AddUp(const std::array<float, kSums>& sums) {
  float total = 0.0F;
  for (const float sum : sums) total += sum;
  return total;
}

HalfQuadraticSums F32HalfQuadraticSums(const float* source, std::size_t n, float scale, float beta, float p, float low,
                                       float high) {
  const Float16 df;
  const Vector16 scales = hn::Set(df, scale);
  const Vector16 inverse = hn::Set(df, 1.0F / scale);
  const Vector16 inverse_beta = hn::Set(df, 1.0F / beta);
  const Vector16 exponent = hn::Set(df, p - 1.0F);
  const Vector16 lows = hn::Set(df, low);
  const Vector16 highs = hn::Set(df, high);
  std::array<float, kSums> q_dot_target;
  std::array<float, kSums> q_dot_q;
  std::array<float, kSums> lp_error;
  for (std::size_t part = 0; part < kSums; part += hn::Lanes(df)) {
    Vector16 target_sum = hn::Zero(df);
    Vector16 q_sum = hn::Zero(df);
    Vector16 error_sum = hn::Zero(df);
    for (std::size_t i = part; i < n; i += kSums) {
      const Vector16 value = hn::LoadU(df, source + i);
      const Vector16 q = RoundClamped(df, hn::Mul(value, inverse), lows, highs);
      const Vector16 r = hn::Sub(value, hn::Mul(q, scales));
      const Vector16 magnitude = hn::Abs(r);
      const Vector16 power = Power(magnitude, exponent);
      const Vector16 shrunk = hn::Max(hn::Sub(magnitude, hn::Mul(power, inverse_beta)), hn::Zero(df));
      const Vector16 e = hn::CopySignToAbs(shrunk, r);
      target_sum = hn::Add(target_sum, hn::Mul(q, hn::Sub(value, e)));
      q_sum = hn::Add(q_sum, hn::Mul(q, q));
      error_sum = hn::Add(error_sum, hn::Mul(magnitude, power));
    }
    hn::StoreU(target_sum, df, q_dot_target.data() + part);
    hn::StoreU(q_sum, df, q_dot_q.data() + part);
    hn::StoreU(error_sum, df, lp_error.data() + part);
  }
  return {AddUp(q_dot_target), AddUp(q_dot_q), AddUp(lp_error)};
}

#endif

}  // namespace diffulex_edge::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace diffulex_edge::kernels {

HWY_EXPORT(F32SquaredErrors);
HWY_EXPORT(F32HalfQuadraticSums);

void f32_squared_errors(const float* source, const float* importance, std::size_t n, const float* scales, float* errors,
                        std::size_t count, float low, float high) {
  HWY_DYNAMIC_DISPATCH(F32SquaredErrors)(source, importance, n, scales, errors, count, low, high);
}

HalfQuadraticSums f32_half_quadratic_sums(const float* source, std::size_t n, float scale, float beta, float p,
                                          float low, float high) {
  return HWY_DYNAMIC_DISPATCH(F32HalfQuadraticSums)(source, n, scale, beta, p, low, high);
}

}  // namespace diffulex_edge::kernels
#endif
