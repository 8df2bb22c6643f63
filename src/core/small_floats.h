// Floating-point numbers of 8 and 16 bits as float32, one at a time and exactly. Rows of them are converted by the
// kernels of src/quant/kernels.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

namespace diffulex_edge {

inline float float_from_bf16(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16U);
}

inline float float_from_f16(std::uint16_t bits) {
  const std::uint32_t sign = (bits & 0x8000U) << 16U;
  const std::uint32_t exponent = (bits >> 10U) & 0x1FU;
  const std::uint32_t fraction = bits & 0x3FFU;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(fraction) * 0x1p-24F;
    return sign != 0 ? -magnitude : magnitude;
  }
  const std::uint32_t wide = exponent == 31 ? 255U : exponent + 112U;
  return std::bit_cast<float>(sign | (wide << 23U) | (fraction << 13U));
}

// E4M3 without infinities (OCP OFP8, "e4m3fn"): only all ones are NaN.
inline float float_from_e4m3(std::uint8_t bits) {
  const std::uint32_t exponent = (bits >> 3U) & 0xFU;
  const std::uint32_t fraction = bits & 7U;
  float magnitude = std::numeric_limits<float>::quiet_NaN();
  if (exponent == 0) {
    magnitude = static_cast<float>(fraction) * 0x1p-9F;
  } else if (exponent != 15 || fraction != 7) {
    magnitude = std::bit_cast<float>(((exponent + 120U) << 23U) | (fraction << 20U));
  }
  return (bits & 0x80U) != 0 ? -magnitude : magnitude;
}

// E5M2: the upper half of a binary16.
inline float float_from_e5m2(std::uint8_t bits) {
  return float_from_f16(static_cast<std::uint16_t>(static_cast<std::uint32_t>(bits) << 8U));
}

}  // namespace diffulex_edge
