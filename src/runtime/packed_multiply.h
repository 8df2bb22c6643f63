// y = x W^T for a packed weight, in tiles on all cores.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "diffulex_edge/progress.h"
#include "diffulex_edge/quantization.h"
#include "runtime/kernels/packed_kernels.h"
#include "runtime/layer_arithmetic.h"
#include "runtime/packed_weight.h"

namespace diffulex_edge {

// Activations as the packed kernels take them, for one weight.
class PackedInput {
 public:
  // `x` is [tokens, columns of the weight] and must outlive this; static arithmetic takes its scale from `plan`.
  PackedInput(const PackedWeight& weight, std::span<const float> x, std::int64_t tokens, InputArithmetic arithmetic,
              const LayerPlan* plan, const RunControl& control);

  // Multiplies `count` tokens from `begin` by `panels`; out [count, 16 * panels].
  void multiply(const kernels::PackedPanels& panels, std::int64_t begin, std::int64_t count, float* out) const;

 private:
  void quantize(std::span<const float> x, const LayerPlan* plan, std::size_t token);

  InputArithmetic arithmetic_;
  std::size_t columns_;  // of the weight
  std::size_t padded_columns_;
  std::size_t group_columns_;
  const float* floats_ = nullptr;  // [tokens, padded columns]
  std::vector<float> padded_;      // holds them where the weight has columns that fill up
  std::vector<std::int8_t> integers_;
  std::vector<std::int32_t> sums_;
  std::vector<std::int32_t> zero_points_;
  std::vector<float> scales_;
};

// Writes all of `y` [tokens, rows]; any format but FP32. The result does not depend on threads or instruction set.
void multiply_packed(const PackedWeight& weight, const PackedInput& input, std::span<float> y, std::int64_t tokens,
                     const OutputArithmetic& output, const RunControl& control);

// The same for FP32, by the library's float multiplication.
void multiply_float32(const PackedWeight& weight, std::span<const float> x, std::span<float> y, std::int64_t tokens,
                      const OutputArithmetic& output, const RunControl& control);

}  // namespace diffulex_edge
