// SIMD kernels of the CPU runtime: one row of activations at a time, float32, dispatched at run time to the best
// instruction set. Any length, any alignment of 4 bytes. Sums are not in a fixed order across instruction sets.
#pragma once

#include <cstddef>
#include <cstdint>

namespace diffulex_edge::kernels {

// target = a + b; target may be a or b.
void add_rows(const float* a, const float* b, float* target, std::size_t n);

// target = x / sqrt(mean(x^2) + epsilon) * weight; target may be x.
void rms_norm_row(const float* x, const float* weight, float epsilon, float* target, std::size_t n);

// target = x * cos + swap_halves(x) * signed_sin; n is even; target is not x.
void rope_row(const float* x, const float* cos, const float* signed_sin, float* target, std::size_t n);

// target = gate * sigmoid(gate) * up; target may be gate or up.
void swiglu_row(const float* gate, const float* up, float* target, std::size_t n);

// x = exp(x - max(x)) / sum, in place; n > 0.
void softmax_row(float* x, std::size_t n);

// sum of exp(x - max(x)) and max(x), for log-sum-exp; n > 0.
struct LogSumExpParts {
  float max = 0.0F;
  double sum = 0.0;
};
LogSumExpParts exp_sum_row(const float* x, std::size_t n);

// sum of exp(a - log_sum_exp) * (a - b): the expectation of a - b under a's softmax.
double expected_difference_row(const float* a, const float* b, std::size_t n, float log_sum_exp);

// XNNPACK's dynamic quantization of one token (qd8): the row's range, widened to hold 0, gets the integers -128..127.
// Writes q - zero_point, an integer in [-255, 255], and returns the scale of one step.
float quantize_row_dynamic(const float* x, float* target, std::size_t n);

// Static 8-bit quantization: writes clamp(round(x / scale) + zero_point, -128, 127) - zero_point. target may be x.
void quantize_row_static(const float* x, float* target, std::size_t n, float scale, std::int32_t zero_point);

// The same, written as the integers q themselves, in [-128, 127].
struct DynamicScale {
  float scale = 1.0F;
  std::int32_t zero_point = 0;
};
DynamicScale quantize_row_dynamic_i8(const float* x, std::int8_t* target, std::size_t n);
void quantize_row_static_i8(const float* x, std::int8_t* target, std::size_t n, float scale, std::int32_t zero_point);
// x * scale.
void dequantize_row_i8(const std::int8_t* x, float scale, float* target, std::size_t n);

}  // namespace diffulex_edge::kernels
