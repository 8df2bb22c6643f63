// The scalar twins: the definition of every kernel, one element at a time. The SIMD versions also call them for the
// last few elements of a row.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "quant/kernels/kernels.h"

namespace diffulex_edge::kernels::scalar {
namespace {

constexpr std::uint32_t kSignBit32 = 0x80000000U;
constexpr std::uint32_t kInfinity32 = 0x7F800000U;

// std::nearbyint rounds ties to even in the default rounding mode, which the library never changes.
float round_clamped(float value, float scale, float low, float high) {
  return std::clamp(std::nearbyint(value / scale), low, high);
}

unsigned nibble(float value, float scale) {
  return static_cast<unsigned>(static_cast<int>(round_clamped(value, scale, -8.0F, 7.0F)) + 8);
}

std::uint8_t nibble_pair(unsigned low, unsigned high) { return static_cast<std::uint8_t>(low | (high << 4U)); }

std::uint16_t i4_group_scale(MinMax range) {
  if (range.min == 0.0F && range.max == 0.0F) {
    return f32_to_bf16_one(1.0F);
  }
  const float scale = std::max(range.max / 7.0F, -range.min / 8.0F);
  return f32_to_bf16_one(std::max(scale, std::numeric_limits<float>::min()));
}

}  // namespace

float f16_to_f32_one(std::uint16_t bits) {
  const std::uint32_t sign = (bits & 0x8000U) << 16U;
  const std::uint32_t exponent = (bits >> 10U) & 0x1FU;
  const std::uint32_t mantissa = bits & 0x3FFU;
  if (exponent == 0x1FU) {
    const std::uint32_t quiet = mantissa == 0 ? 0 : 0x400000U;
    return std::bit_cast<float>(sign | kInfinity32 | quiet | (mantissa << 13U));
  }
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
  }
  return std::bit_cast<float>(sign | ((exponent + 112U) << 23U) | (mantissa << 13U));
}

float bf16_to_f32_one(std::uint16_t bits) {
  const bool is_nan = (bits & 0x7FFFU) > 0x7F80U;
  const std::uint32_t quiet = is_nan ? 0x400000U : 0U;
  return std::bit_cast<float>((static_cast<std::uint32_t>(bits) << 16U) | quiet);
}

std::uint16_t f32_to_f16_one(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits & kSignBit32) >> 16U;
  const std::uint32_t magnitude = bits & ~kSignBit32;
  std::uint32_t result = 0;
  if (magnitude > kInfinity32) {
    result = 0x7E00U | ((magnitude >> 13U) & 0x1FFU);
  } else if (magnitude >= 0x477FF000U) {  // 65520, the tie between 65504 and the value that binary16 lacks
    result = 0x7C00U;
  } else if (magnitude >= 0x38800000U) {  // 2^-14: normal in binary16
    const std::uint32_t odd = (magnitude >> 13U) & 1U;
    result = (magnitude - (112U << 23U) + 0xFFFU + odd) >> 13U;
  } else if (magnitude > 0x33000000U) {  // above 2^-25: subnormal, a multiple of 2^-24
    const std::uint32_t shift = 126U - (magnitude >> 23U);
    const std::uint32_t mantissa = (magnitude & 0x7FFFFFU) | 0x800000U;
    const std::uint32_t remainder = mantissa & ((1U << shift) - 1U);
    const std::uint32_t half = 1U << (shift - 1U);
    result = mantissa >> shift;
    if (remainder > half || (remainder == half && (result & 1U) != 0)) {
      ++result;
    }
  }
  return static_cast<std::uint16_t>(sign | result);
}

std::uint16_t f32_to_bf16_one(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & ~kSignBit32) > kInfinity32) {
    return static_cast<std::uint16_t>((bits >> 16U) | 0x40U);
  }
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16U) & 1U)) >> 16U);
}

void f16_to_f32(const std::uint16_t* source, float* target, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    target[i] = f16_to_f32_one(source[i]);
  }
}

void bf16_to_f32(const std::uint16_t* source, float* target, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    target[i] = bf16_to_f32_one(source[i]);
  }
}

void f32_to_f16(const float* source, std::uint16_t* target, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    target[i] = f32_to_f16_one(source[i]);
  }
}

void f32_to_f16_saturate(const float* source, std::uint16_t* target, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    const bool is_large = std::fabs(source[i]) > kMaxFinite16;
    target[i] = f32_to_f16_one(is_large ? std::copysign(kMaxFinite16, source[i]) : source[i]);
  }
}

void f32_to_bf16(const float* source, std::uint16_t* target, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    target[i] = f32_to_bf16_one(source[i]);
  }
}

// Magnitudes order like their bits, with NaN above infinity.
float f32_abs_max(const float* source, std::size_t n) {
  std::uint32_t largest = 0;
  for (std::size_t i = 0; i < n; ++i) {
    largest = std::max(largest, std::bit_cast<std::uint32_t>(source[i]) & ~kSignBit32);
  }
  return largest > kInfinity32 ? std::numeric_limits<float>::quiet_NaN() : std::bit_cast<float>(largest);
}

MinMax f32_min_max(const float* source, std::size_t n) {
  if (n == 0) {
    return {};
  }
  const auto [min, max] = std::minmax_element(source, source + n);
  return {*min + 0.0F, *max + 0.0F};  // -0.0 + 0.0 is 0.0
}

void f32_to_i8_rtn(const float* source, std::int8_t* target, std::size_t n, float scale) {
  for (std::size_t i = 0; i < n; ++i) {
    target[i] = static_cast<std::int8_t>(round_clamped(source[i], scale, -128.0F, 127.0F));
  }
}

void f32_to_i4_group_rtn(const float* source, std::uint8_t* target, std::uint16_t* scales, std::size_t n,
                         std::size_t group_size) {
  for (std::size_t group = 0; group < n / group_size; ++group) {
    const float* weights = source + group * group_size;
    scales[group] = i4_group_scale(f32_min_max(weights, group_size));
    f32_to_i4_rtn(weights, target + group * group_size / 2, group_size, bf16_to_f32_one(scales[group]));
  }
}

void f32_to_i4_rtn(const float* source, std::uint8_t* target, std::size_t n, float scale) {
  for (std::size_t i = 0; i + 1 < n; i += 2) {
    target[i / 2] = nibble_pair(nibble(source[i], scale), nibble(source[i + 1], scale));
  }
  if (n % 2 != 0) {
    target[n / 2] = nibble_pair(nibble(source[n - 1], scale), 8U);
  }
}

void f32_squared_errors(const float* source, const float* importance, std::size_t n, const float* scales, float* errors,
                        std::size_t count, float low, float high) {
  for (std::size_t k = 0; k < count; ++k) {
    const float inverse = 1.0F / scales[k];
    float sum = 0.0F;
    for (std::size_t i = 0; i < n; ++i) {
      const float q = std::nearbyint(std::clamp(source[i] * inverse, low, high));
      const float error = source[i] - q * scales[k];
      sum += importance == nullptr ? error * error : error * error * importance[i];
    }
    errors[k] = sum;
  }
}

// 2^(exponent * log2(magnitude)). With magnitude = m * 2^k, m within a factor of sqrt(2) of 1, log2(m) is the series of
// the inverse hyperbolic tangent in (m - 1) / (m + 1); the power of 2 is split at the nearest integer and its fraction
// is the exponential's Taylor polynomial.
float power_one(float magnitude, float exponent) {
  constexpr std::uint32_t kSqrtHalf = 0x3F3504F3U;
  const auto bits = std::bit_cast<std::uint32_t>(std::max(magnitude, 0x1p-40F));
  const std::uint32_t shifted = bits - kSqrtHalf;
  const auto whole = static_cast<float>(static_cast<std::int32_t>(shifted) >> 23);
  const auto m = std::bit_cast<float>((shifted & 0x7FFFFFU) + kSqrtHalf);
  const float t = (m - 1.0F) / (m + 1.0F);
  const float tt = t * t;
  const float series = (tt * kLog2[3] + kLog2[2]) * tt + kLog2[1];
  const float log2 = series * tt * t + kLog2[0] * t;
  const float power = (whole + log2) * exponent;
  const float rounded = std::nearbyint(power);
  const float f = power - rounded;
  float result = kExp2[5];
  for (std::size_t i = 5; i-- > 0;) {
    result = result * f + kExp2[i];
  }
  const auto scale = static_cast<std::uint32_t>(static_cast<std::int32_t>(rounded) + 127) << 23U;
  return result * std::bit_cast<float>(scale);
}

HalfQuadraticSums f32_half_quadratic_sums(const float* source, std::size_t n, float scale, float beta, float p,
                                          float low, float high) {
  constexpr std::size_t kLanes = 16;
  std::array<HalfQuadraticSums, kLanes> sums;
  const float inverse = 1.0F / scale;
  const float inverse_beta = 1.0F / beta;
  for (std::size_t i = 0; i < n; ++i) {
    const float q = std::nearbyint(std::clamp(source[i] * inverse, low, high));
    const float r = source[i] - q * scale;
    const float power = power_one(std::fabs(r), p - 1.0F);
    const float e = std::copysign(std::max(std::fabs(r) - power * inverse_beta, 0.0F), r);
    HalfQuadraticSums& sum = sums[i % kLanes];
    sum.q_dot_target += q * (source[i] - e);
    sum.q_dot_q += q * q;
    sum.lp_error += std::fabs(r) * power;
  }
  HalfQuadraticSums total;
  for (const HalfQuadraticSums& sum : sums) {
    total.q_dot_target += sum.q_dot_target;
    total.q_dot_q += sum.q_dot_q;
    total.lp_error += sum.lp_error;
  }
  return total;
}

void swap_nibbles(const std::uint8_t* source, std::uint8_t* target, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; ++i) {
    target[i] = static_cast<std::uint8_t>((source[i] << 4U) | (source[i] >> 4U));
  }
}

}  // namespace diffulex_edge::kernels::scalar
