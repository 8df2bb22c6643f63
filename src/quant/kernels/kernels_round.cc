// SIMD kernels that measure weights, round them to INT8 and INT4, and pack nibbles.
//
// This file is compiled once for each instruction set (foreach_target) and dispatched at run time.
#include <algorithm>
#include <bit>
#include <limits>

#include "quant/kernels/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/kernels/kernels_round.cc"
#include <hwy/foreach_target.h>  // must come before highway.h
// clang-format off
#include <hwy/highway.h>
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace diffulex_edge::kernels::HWY_NAMESPACE {

const char* InstructionSet() { return hwy::TargetName(HWY_TARGET); }

// One-lane and emulated targets gain nothing over the twins.
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128

float F32AbsMax(const float* source, std::size_t n) { return scalar::f32_abs_max(source, n); }
MinMax F32MinMax(const float* source, std::size_t n) { return scalar::f32_min_max(source, n); }
void F32ToI8Rtn(const float* source, std::int8_t* target, std::size_t n, float scale) {
  scalar::f32_to_i8_rtn(source, target, n, scale);
}
void F32ToI4GroupRtn(const float* source, std::uint8_t* target, std::uint16_t* scales, std::size_t n,
                     std::size_t group_size) {
  scalar::f32_to_i4_group_rtn(source, target, scales, n, group_size);
}
void F32ToI4Rtn(const float* source, std::uint8_t* target, std::size_t n, float scale) {
  scalar::f32_to_i4_rtn(source, target, n, scale);
}
void SwapNibbles(const std::uint8_t* source, std::uint8_t* target, std::size_t bytes) {
  scalar::swap_nibbles(source, target, bytes);
}

#else

namespace hn = hwy::HWY_NAMESPACE;

using Float = hn::ScalableTag<float>;
using Bits = hn::RebindToUnsigned<Float>;
using SignedBits = hn::RebindToSigned<Float>;
using FloatVector = hn::Vec<Float>;
using BitsVector = hn::Vec<Bits>;
using SignedBitsVector = hn::Vec<SignedBits>;

// --- Measuring.

HWY_INLINE SignedBitsVector MagnitudeBits(const float* source) {
  return hn::BitCast(SignedBits(), hn::Abs(hn::LoadU(Float(), source)));
}

// Magnitudes order like their bits, with NaN above infinity.
float F32AbsMax(const float* source, std::size_t n) {
  const SignedBits di;
  const std::size_t lanes = hn::Lanes(di);
  SignedBitsVector max0 = hn::Zero(di);
  SignedBitsVector max1 = hn::Zero(di);
  SignedBitsVector max2 = hn::Zero(di);
  SignedBitsVector max3 = hn::Zero(di);
  std::size_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    max0 = hn::Max(max0, MagnitudeBits(source + i));
    max1 = hn::Max(max1, MagnitudeBits(source + i + lanes));
    max2 = hn::Max(max2, MagnitudeBits(source + i + 2 * lanes));
    max3 = hn::Max(max3, MagnitudeBits(source + i + 3 * lanes));
  }
  for (; i + lanes <= n; i += lanes) max0 = hn::Max(max0, MagnitudeBits(source + i));
  const SignedBitsVector max = hn::Max(hn::Max(max0, max1), hn::Max(max2, max3));
  const float rest = scalar::f32_abs_max(source + i, n - i);
  const std::int32_t largest = std::max(hn::GetLane(hn::MaxOfLanes(di, max)), std::bit_cast<std::int32_t>(rest));
  constexpr std::int32_t kInfinity = 0x7F800000;
  return largest > kInfinity ? std::numeric_limits<float>::quiet_NaN() : std::bit_cast<float>(largest);
}

// Smallest and largest value of each lane; `n` is a positive multiple of the number of lanes.
HWY_INLINE void LanewiseMinMax(const float* source, std::size_t n, FloatVector& min, FloatVector& max) {
  const Float df;
  const std::size_t lanes = hn::Lanes(df);
  min = hn::LoadU(df, source);
  max = min;
  FloatVector min1 = min;
  FloatVector max1 = min;
  std::size_t i = lanes;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    const FloatVector a = hn::LoadU(df, source + i);
    const FloatVector b = hn::LoadU(df, source + i + lanes);
    min = hn::Min(min, a);
    max = hn::Max(max, a);
    min1 = hn::Min(min1, b);
    max1 = hn::Max(max1, b);
  }
  if (i < n) {
    const FloatVector last = hn::LoadU(df, source + i);
    min = hn::Min(min, last);
    max = hn::Max(max, last);
  }
  min = hn::Min(min, min1);
  max = hn::Max(max, max1);
}

MinMax F32MinMax(const float* source, std::size_t n) {
  const Float df;
  const std::size_t whole = n - n % hn::Lanes(df);
  if (whole == 0) return scalar::f32_min_max(source, n);
  FloatVector min;
  FloatVector max;
  LanewiseMinMax(source, whole, min, max);
  MinMax range = {hn::GetLane(hn::MinOfLanes(df, min)), hn::GetLane(hn::MaxOfLanes(df, max))};
  if (whole < n) {
    const MinMax rest = scalar::f32_min_max(source + whole, n - whole);
    range = {std::min(range.min, rest.min), std::max(range.max, rest.max)};
  }
  return {range.min + 0.0F, range.max + 0.0F};  // -0.0 + 0.0 is 0.0
}

// --- Rounding.

// Adding 1.5 * 2^23 leaves no bit below 1 in a float, so the sum itself rounds to nearest even and its low bits hold
// the integer in two's complement. Clamping before instead of after gives the same, as the bounds are integers.
HWY_INLINE BitsVector RoundClamped(FloatVector value, FloatVector scale, float low, float high, float offset) {
  const Float df;
  const FloatVector quotient = hn::Div(value, scale);
  const FloatVector clamped = hn::Min(hn::Max(quotient, hn::Set(df, low)), hn::Set(df, high));
  return hn::BitCast(Bits(), hn::Add(clamped, hn::Set(df, 12582912.0F + offset)));
}

void F32ToI8Rtn(const float* source, std::int8_t* target, std::size_t n, float scale) {
  const Float df;
  const hn::Rebind<std::uint8_t, Float> du8;
  const hn::RebindToSigned<decltype(du8)> di8;
  const std::size_t lanes = hn::Lanes(df);
  const FloatVector scales = hn::Set(df, scale);
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const BitsVector rounded = RoundClamped(hn::LoadU(df, source + i), scales, -128.0F, 127.0F, 0.0F);
    hn::StoreU(hn::BitCast(di8, hn::TruncateTo(du8, rounded)), di8, target + i);
  }
  scalar::f32_to_i8_rtn(source + i, target + i, n - i, scale);
}

// Rounds one vector and stores it as nibbles, half a byte a lane.
HWY_INLINE void StoreNibbles(FloatVector value, FloatVector scale, std::uint8_t* HWY_RESTRICT target) {
  const Bits du;
  const hn::Repartition<std::uint64_t, Bits> du64;
  const hn::Rebind<std::uint8_t, decltype(du64)> du8;
  const BitsVector nibbles = hn::And(RoundClamped(value, scale, -8.0F, 7.0F, 8.0F), hn::Set(du, 15U));
  const auto pairs = hn::BitCast(du64, nibbles);
  hn::StoreU(hn::TruncateTo(du8, hn::Or(pairs, hn::ShiftRight<28>(pairs))), du8, target);
}

// Groups are measured in blocks that stay in the L1 cache, so that their scales are computed in whole vectors.
constexpr std::size_t kBlockElements = 2048;
constexpr std::size_t kMaxBlockGroups = 64;

struct GroupBlock {
  HWY_ALIGN float min[kMaxBlockGroups] = {};
  HWY_ALIGN float max[kMaxBlockGroups] = {};
  HWY_ALIGN float scale[kMaxBlockGroups] = {};
};

HWY_INLINE FloatVector I4GroupScales(FloatVector min, FloatVector max) {
  const Float df;
  const Bits du;
  const FloatVector exact = hn::Max(hn::Div(max, hn::Set(df, 7.0F)), hn::Div(min, hn::Set(df, -8.0F)));
  const FloatVector normal = hn::Max(exact, hn::Set(df, std::numeric_limits<float>::min()));
  const BitsVector bits = hn::BitCast(du, normal);
  const BitsVector odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1U));
  const BitsVector rounded = hn::And(hn::Add(hn::Add(bits, hn::Set(du, 0x7FFFU)), odd), hn::Set(du, 0xFFFF0000U));
  const FloatVector zero = hn::Zero(df);
  const auto all_zero = hn::And(hn::Eq(min, zero), hn::Eq(max, zero));
  return hn::IfThenElse(all_zero, hn::Set(df, 1.0F), hn::BitCast(df, rounded));
}

// Folds the lanes of four vectors at once: target[k] is the fold of vector k. Two transpositions fold each block of
// four lanes, then the blocks are folded.
template <class Fold>
HWY_INLINE void FoldFour(FloatVector a, FloatVector b, FloatVector c, FloatVector d, const Fold& fold, float* target) {
  const Float df;
  const hn::Repartition<double, Float> df64;
  const hn::CappedTag<float, 4> d4;
  const FloatVector ab = fold(hn::InterleaveLower(df, a, b), hn::InterleaveUpper(df, a, b));
  const FloatVector cd = fold(hn::InterleaveLower(df, c, d), hn::InterleaveUpper(df, c, d));
  const auto ab64 = hn::BitCast(df64, ab);
  const auto cd64 = hn::BitCast(df64, cd);
  const FloatVector abcd = fold(hn::BitCast(df, hn::InterleaveLower(df64, ab64, cd64)),
                                hn::BitCast(df, hn::InterleaveUpper(df64, ab64, cd64)));
  HWY_ALIGN float blocks[hn::MaxLanes(df)];
  hn::Store(abcd, df, blocks);
  auto folded = hn::Load(d4, blocks);
  for (std::size_t i = 4; i < hn::Lanes(df); i += 4) folded = fold(folded, hn::Load(d4, blocks + i));
  hn::Store(folded, d4, target);
}

HWY_INLINE void MeasureFourGroups(const float* HWY_RESTRICT source, std::size_t group_size, float* min, float* max) {
  FloatVector min0, min1, min2, min3;
  FloatVector max0, max1, max2, max3;
  LanewiseMinMax(source, group_size, min0, max0);
  LanewiseMinMax(source + group_size, group_size, min1, max1);
  LanewiseMinMax(source + 2 * group_size, group_size, min2, max2);
  LanewiseMinMax(source + 3 * group_size, group_size, min3, max3);
  FoldFour(min0, min1, min2, min3, [](auto a, auto b) HWY_ATTR { return hn::Min(a, b); }, min);
  FoldFour(max0, max1, max2, max3, [](auto a, auto b) HWY_ATTR { return hn::Max(a, b); }, max);
}

HWY_INLINE void MeasureGroups(const float* HWY_RESTRICT source, std::uint16_t* HWY_RESTRICT scales, std::size_t groups,
                              std::size_t group_size, GroupBlock& block) {
  const Float df;
  std::size_t measured = 0;
  for (; measured + 4 <= groups; measured += 4) {
    MeasureFourGroups(source + measured * group_size, group_size, block.min + measured, block.max + measured);
  }
  for (; measured < groups; ++measured) {
    const MinMax range = F32MinMax(source + measured * group_size, group_size);
    block.min[measured] = range.min;
    block.max[measured] = range.max;
  }
  for (std::size_t group = 0; group < groups; group += hn::Lanes(df)) {
    hn::Store(I4GroupScales(hn::Load(df, block.min + group), hn::Load(df, block.max + group)), df, block.scale + group);
  }
  for (std::size_t group = 0; group < groups; ++group) {
    scales[group] = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(block.scale[group]) >> 16U);
  }
}

HWY_INLINE void QuantizeGroups(const float* HWY_RESTRICT source, std::uint8_t* HWY_RESTRICT target,
                               std::uint16_t* HWY_RESTRICT scales, std::size_t n, std::size_t group_size) {
  const Float df;
  const std::size_t lanes = hn::Lanes(df);
  const std::size_t all_groups = n / group_size;
  const std::size_t block_groups = std::clamp(kBlockElements / group_size, std::size_t{1}, kMaxBlockGroups);
  GroupBlock block;
  for (std::size_t first = 0; first < all_groups; first += block_groups) {
    const std::size_t groups = std::min(block_groups, all_groups - first);
    MeasureGroups(source + first * group_size, scales + first, groups, group_size, block);
    for (std::size_t group = 0; group < groups; ++group) {
      const FloatVector scale = hn::Set(df, block.scale[group]);
      const std::size_t start = (first + group) * group_size;
      for (std::size_t i = start; i < start + group_size; i += lanes) {
        StoreNibbles(hn::LoadU(df, source + i), scale, target + i / 2);
      }
    }
  }
}

void F32ToI4GroupRtn(const float* source, std::uint8_t* target, std::uint16_t* scales, std::size_t n,
                     std::size_t group_size) {
  if (group_size % hn::Lanes(Float()) != 0) return scalar::f32_to_i4_group_rtn(source, target, scales, n, group_size);
  if (group_size == 32) return QuantizeGroups(source, target, scales, n, 32);  // the compiler unrolls it
  QuantizeGroups(source, target, scales, n, group_size);
}

void F32ToI4Rtn(const float* HWY_RESTRICT source, std::uint8_t* HWY_RESTRICT target, std::size_t n, float scale) {
  const Float df;
  const std::size_t lanes = hn::Lanes(df);
  const FloatVector divisor = hn::Set(df, scale);
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) StoreNibbles(hn::LoadU(df, source + i), divisor, target + i / 2);
  scalar::f32_to_i4_rtn(source + i, target + i / 2, n - i, scale);
}

// --- Repacking.

void SwapNibbles(const std::uint8_t* source, std::uint8_t* target, std::size_t bytes) {
  const hn::ScalableTag<std::uint8_t> du8;
  const hn::Repartition<std::uint16_t, decltype(du8)> du16;
  const auto low = hn::Set(du8, 0x0F);
  const std::size_t lanes = hn::Lanes(du8);
  std::size_t i = 0;
  for (; i + lanes <= bytes; i += lanes) {
    const auto pairs = hn::BitCast(du16, hn::LoadU(du8, source + i));
    const auto down = hn::And(hn::BitCast(du8, hn::ShiftRight<4>(pairs)), low);
    const auto up = hn::AndNot(low, hn::BitCast(du8, hn::ShiftLeft<4>(pairs)));
    hn::StoreU(hn::Or(down, up), du8, target + i);
  }
  scalar::swap_nibbles(source + i, target + i, bytes - i);
}

#endif

}  // namespace diffulex_edge::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace diffulex_edge::kernels {

HWY_EXPORT(InstructionSet);
HWY_EXPORT(F32AbsMax);
HWY_EXPORT(F32MinMax);
HWY_EXPORT(F32ToI8Rtn);
HWY_EXPORT(F32ToI4GroupRtn);
HWY_EXPORT(F32ToI4Rtn);
HWY_EXPORT(SwapNibbles);

const char* instruction_set() { return HWY_DYNAMIC_DISPATCH(InstructionSet)(); }

float f32_abs_max(const float* source, std::size_t n) { return HWY_DYNAMIC_DISPATCH(F32AbsMax)(source, n); }

MinMax f32_min_max(const float* source, std::size_t n) { return HWY_DYNAMIC_DISPATCH(F32MinMax)(source, n); }

void f32_to_i8_rtn(const float* source, std::int8_t* target, std::size_t n, float scale) {
  HWY_DYNAMIC_DISPATCH(F32ToI8Rtn)(source, target, n, scale);
}

void f32_to_i4_group_rtn(const float* source, std::uint8_t* target, std::uint16_t* scales, std::size_t n,
                         std::size_t group_size) {
  HWY_DYNAMIC_DISPATCH(F32ToI4GroupRtn)(source, target, scales, n, group_size);
}

void f32_to_i4_rtn(const float* source, std::uint8_t* target, std::size_t n, float scale) {
  HWY_DYNAMIC_DISPATCH(F32ToI4Rtn)(source, target, n, scale);
}

void swap_nibbles(const std::uint8_t* source, std::uint8_t* target, std::size_t bytes) {
  HWY_DYNAMIC_DISPATCH(SwapNibbles)(source, target, bytes);
}

}  // namespace diffulex_edge::kernels
#endif
