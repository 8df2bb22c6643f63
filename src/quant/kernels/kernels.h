// SIMD kernels that turn checkpoint weights into stored formats: widen, measure, round, pack, and search
// scales.
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

#include <array>
#include <cstddef>
#include <cstdint>
#include <numbers>

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

// --- Searching scales. Integers are q = clamp(round(w * (1 / scale)), low, high) here: a product in place of the
// division, which the search can afford to have off by one at ties. `low` and `high` are integers within ±128.
// errors[k] = sum over i of importance[i] * (source[i] - q * scales[k])^2, added up in the order of i in float32; an
// `importance` of nullptr is 1 everywhere. Finite input, scales normal and > 0.
void f32_squared_errors(const float* source, const float* importance, std::size_t n, const float* scales, float* errors,
                        std::size_t count, float low, float high);

// Sums that one step of half-quadratic quantization needs, with r = source - q * scale the rounding's error and
// e = sign(r) * max(|r| - |r|^(p-1) / beta, 0) the part of it that counts as an outlier.
struct HalfQuadraticSums {
  float q_dot_target = 0.0F;  // sum of q * (source - e)
  float q_dot_q = 0.0F;
  float lp_error = 0.0F;  // sum of |r|^p
};
// `n` is a multiple of 16; sums are kept for the elements of equal i % 16 and added up at the end. Powers are exact to
// about 1e-6, of magnitudes raised to 2^-40. 0 < p <= 1; finite input whose integers lie within a few times ±128.
HalfQuadraticSums f32_half_quadratic_sums(const float* source, std::size_t n, float scale, float beta, float p,
                                          float low, float high);

// --- Repacking: swaps the two nibbles of each byte (ExecuTorch's embedding operator wants element 2i in the high
// nibble). In-place use (source == target) is allowed.
void swap_nibbles(const std::uint8_t* source, std::uint8_t* target, std::size_t bytes);

// The instruction set that the dispatched kernels use on this machine, such as "AVX3", "NEON", "SSE4".
const char* instruction_set();

// Series that the powers are computed by: 2 / (k ln 2) for k = 1, 3, 5, 7, and (ln 2)^k / k! for k = 0 to 5.
inline constexpr float kLn2 = std::numbers::ln2_v<float>;
inline constexpr std::array<float, 4> kLog2 = {2.0F / kLn2, 2.0F / (3.0F * kLn2), 2.0F / (5.0F * kLn2),
                                               2.0F / (7.0F * kLn2)};
inline constexpr std::array<float, 6> kExp2 = {1.0F,
                                               kLn2,
                                               kLn2* kLn2 / 2.0F,
                                               kLn2* kLn2* kLn2 / 6.0F,
                                               kLn2* kLn2* kLn2* kLn2 / 24.0F,
                                               kLn2* kLn2* kLn2* kLn2* kLn2 / 120.0F};

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
void f32_squared_errors(const float* source, const float* importance, std::size_t n, const float* scales, float* errors,
                        std::size_t count, float low, float high);
// magnitude^exponent, of a magnitude raised to 2^-40.
float power_one(float magnitude, float exponent);
HalfQuadraticSums f32_half_quadratic_sums(const float* source, std::size_t n, float scale, float beta, float p,
                                          float low, float high);
void swap_nibbles(const std::uint8_t* source, std::uint8_t* target, std::size_t bytes);
}  // namespace scalar

}  // namespace diffulex_edge::kernels
