// SIMD kernels that turn checkpoint weights into stored formats: widen, measure, round, pack.
//
// Each kernel is written once with Google Highway and dispatched at run time to the best instruction set of the
// machine. `scalar::` holds a plain twin of each, with the same name and the same result to the bit: it is the
// definition, the tests' oracle, and what a reader should read first.
//
// All kernels take any length and pointers with no more than their elements' natural alignment (2 bytes for binary16, 4
// for float: a mapped file may have to be copied first), write exactly what they say, and keep no state. Source and
// target do not overlap unless a kernel allows it. "Round" is to nearest, ties to even, everywhere; the floating-point
// environment is the default one (no flush to zero).
#pragma once

#include <cstddef>
#include <cstdint>

namespace diffulex_edge::kernels {

// Largest finite magnitude of IEEE binary16.
inline constexpr float kMaxFinite16 = 65504.0F;

// Smallest and largest value of a group; both 0 for an empty one.
struct MinMax {
  float min = 0.0F;
  float max = 0.0F;
};

// --- Widening. `n` elements; source elements are the 16 bits of a binary16 / bfloat16 value. Exact, NaN payloads kept
// as quiet NaN.
void f16_to_f32(const std::uint16_t* source, float* target, std::size_t n);
void bf16_to_f32(const std::uint16_t* source, float* target, std::size_t n);

// --- Narrowing. Rounds to nearest even. A magnitude that rounds beyond 65504 becomes infinity with the IEEE rule in
// f32_to_f16 (the caller checks `abs_max` first) and ±65504 in f32_to_f16_saturate (infinities too). NaN stays NaN
// (quiet).
void f32_to_f16(const float* source, std::uint16_t* target, std::size_t n);
void f32_to_f16_saturate(const float* source, std::uint16_t* target, std::size_t n);
// Rounds to nearest even; NaN stays NaN (quiet).
void f32_to_bf16(const float* source, std::uint16_t* target, std::size_t n);

// --- Measuring.
// The largest magnitude. Any NaN in the input gives NaN, else any infinity gives +infinity: one call both measures and
// validates. 0 for n = 0.
float f32_abs_max(const float* source, std::size_t n);
// Smallest and largest value; finite input only (call f32_abs_max first). A zero is always returned as +0.0.
MinMax f32_min_max(const float* source, std::size_t n);

// --- INT8, symmetric. target[i] = clamp(round(source[i] / scale), -128, 127); division, not multiplication by the
// reciprocal, so that the result equals the stored format's definition. `scale` is finite and > 0; source is finite.
void f32_to_i8_rtn(const float* source, std::int8_t* target, std::size_t n, float scale);

// --- INT4 by groups, symmetric over [-8, 7], one row. `n` is a multiple of `group_size`, `group_size` a positive
// multiple of 2 (fastest when it is a multiple of 16).
// For each group: scale = bf16(max(max / 7, -min / 8)), the least scale that clips nothing, rounded to bfloat16
// *before* the weights are rounded against it; a group of zeros gets scale 1; a scale below the least normal bfloat16
// is raised to it (2^-126), since the runtimes refuse subnormal scales.
// q = clamp(round(w / scale), -8, 7), stored as the nibble q + 8, element 2i in the low nibble of byte i.
// Writes n/2 bytes to `target` and n/group_size bfloat16 values to `scales`. Source is finite.
void f32_to_i4_group_rtn(const float* source, std::uint8_t* target, std::uint16_t* scales, std::size_t n,
                         std::size_t group_size);

// --- INT4 with one given scale per row (per-channel formats): q = clamp(round(w / scale), -8, 7), packed as above.
// n may be odd: the last high nibble is then 8 (zero). Writes (n + 1) / 2 bytes.
void f32_to_i4_rtn(const float* source, std::uint8_t* target, std::size_t n, float scale);

// --- Repacking: swaps the two nibbles of each byte (ExecuTorch's embedding operator wants element 2i in the high
// nibble). In-place use (source == target) is allowed.
void swap_nibbles(const std::uint8_t* source, std::uint8_t* target, std::size_t bytes);

// The instruction set that the dispatched kernels use on this machine, such as "AVX3", "NEON", "SSE4".
const char* instruction_set();

namespace scalar {
float f16_to_f32_one(std::uint16_t bits);
float bf16_to_f32_one(std::uint16_t bits);
std::uint16_t f32_to_f16_one(float value);
std::uint16_t f32_to_bf16_one(float value);

void f16_to_f32(const std::uint16_t* source, float* target, std::size_t n);
void bf16_to_f32(const std::uint16_t* source, float* target, std::size_t n);
void f32_to_f16(const float* source, std::uint16_t* target, std::size_t n);
void f32_to_f16_saturate(const float* source, std::uint16_t* target, std::size_t n);
void f32_to_bf16(const float* source, std::uint16_t* target, std::size_t n);
float f32_abs_max(const float* source, std::size_t n);
MinMax f32_min_max(const float* source, std::size_t n);
void f32_to_i8_rtn(const float* source, std::int8_t* target, std::size_t n, float scale);
void f32_to_i4_group_rtn(const float* source, std::uint8_t* target, std::uint16_t* scales, std::size_t n,
                         std::size_t group_size);
void f32_to_i4_rtn(const float* source, std::uint8_t* target, std::size_t n, float scale);
void swap_nibbles(const std::uint8_t* source, std::uint8_t* target, std::size_t bytes);
}  // namespace scalar

}  // namespace diffulex_edge::kernels
