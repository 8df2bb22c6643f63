// SIMD kernels that multiply activations by packed weights: panels of 16 rows whose bytes lie as the integer
// dot-product instructions take them.
//
// There is one set of kernels for each instruction set, chosen at run time. The scalar set is the definition: integers
// are added up exactly, floats in one chain of fused multiply-adds for each output, so that every set gives the same
// bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace diffulex_edge::kernels {

inline constexpr std::size_t kPanelRows = 16;

enum class PackedElement { kI8, kI4, kF16 };

// Columns of a panel that lie together; a panel's columns are a multiple of it.
//   kI8   64 bytes for 4 columns: byte 4 * row + j is q + 128 of column j
//   kI4   64 bytes for 8 columns: the low nibble of byte 4 * row + j is q + 8 of column j, the high one of column j + 4
//   kF16  32 bytes for 1 column: binary16 of each row
constexpr std::size_t step_columns(PackedElement element) {
  switch (element) {
    case PackedElement::kI8:
      return 4;
    case PackedElement::kI4:
      return 8;
    case PackedElement::kF16:
      break;
  }
  return 1;
}
constexpr std::size_t step_bytes(PackedElement element) { return element == PackedElement::kF16 ? 32 : 64; }

// Some consecutive panels. Integers have either scales of groups (only kI4) or one for each row.
struct PackedPanels {
  PackedElement element = PackedElement::kI8;
  std::size_t panels = 0;
  std::size_t columns = 0;
  std::size_t group_columns = 0;                // that share a scale; all of them unless there are group_scales
  const std::uint8_t* values = nullptr;         // [panels][columns / step_columns][step_bytes]
  const std::uint16_t* group_scales = nullptr;  // bfloat16 [panels][groups][16], or null
  const float* row_scales = nullptr;            // [panels][16], or null
  const std::int32_t* row_sums = nullptr;       // with row_scales: the sum of each row's integers, [panels][16]
  const float* row_totals = nullptr;            // with group_scales: the sum of each row's q * scale, [panels][16]

  std::size_t groups() const { return columns / group_columns; }
  std::size_t panel_bytes() const { return columns / step_columns(element) * step_bytes(element); }
};

// Activations in 8 bits: x is about (value - zero_point) * scale. Those beyond the weight's columns are 0.
struct IntegerTokens {
  std::size_t tokens = 0;
  const std::int8_t* values = nullptr;  // [tokens, columns of the panels]
  // -8 times the sum of each group's values, [tokens, groups]: what takes the 8 from products of q + 8. Of q + 128 it
  // is a sixteenth.
  const std::int32_t* offsets = nullptr;
  const std::int32_t* zero_points = nullptr;
  const float* scales = nullptr;
};

struct FloatTokens {
  std::size_t tokens = 0;
  const float* values = nullptr;  // [tokens, columns of the panels]
};

struct PackedKernels {
  const char* name = nullptr;
  // out [tokens, 16 * panels] = x * weights^T, for kI8 and kI4; from token to token it is `stride` floats.
  //   one scale a row  (sum (x_q - zero_point) * q) * row_scale * scale
  //   groups           (-zero_point * row_total + sum of groups (sum x_q * q) * group_scale) * scale
  // At most 65,793 columns with one scale a row: the sums have 32 bits.
  void (*multiply_integers)(const PackedPanels& weights, const IntegerTokens& x, float* out,
                            std::size_t stride) = nullptr;
  // The same with activations in float32, for every element: sums of each group in the order of the columns.
  void (*multiply_floats)(const PackedPanels& weights, const FloatTokens& x, float* out, std::size_t stride) = nullptr;
};

// What this machine can run, the best first, the scalar set last.
std::span<const PackedKernels> supported_packed_kernels();

namespace scalar {
void multiply_integers(const PackedPanels& weights, const IntegerTokens& x, float* out, std::size_t stride);
void multiply_floats(const PackedPanels& weights, const FloatTokens& x, float* out, std::size_t stride);
}  // namespace scalar

// Of one instruction set each: to be called where the machine has it.
#ifdef __x86_64__
extern const PackedKernels kAvx2Kernels;        // AVX2, FMA, F16C
extern const PackedKernels kAvx512VnniKernels;  // AVX-512 F, BW, VL and VNNI
#elif defined(__aarch64__)
extern const PackedKernels kNeonKernels;
extern const PackedKernels kNeonDotKernels;  // with the dot-product instructions of ARMv8.2
#endif

}  // namespace diffulex_edge::kernels
