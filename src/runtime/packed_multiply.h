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
  ~PackedInput();
  PackedInput(const PackedInput&) = delete;
  PackedInput& operator=(const PackedInput&) = delete;
  PackedInput(PackedInput&&) = delete;
  PackedInput& operator=(PackedInput&&) = delete;

  // Multiplies `count` tokens from `begin` by `panels`; out [count, 16 * panels], `stride` floats from token to token.
  void multiply(const kernels::PackedPanels& panels, std::int64_t begin, std::int64_t count, float* out,
                std::int64_t stride) const;

 private:
  // Memory that the calling thread keeps for its next input, unless it is large: short passes allocate none.
  struct Buffers {
    std::vector<float> padded;  // tokens as floats where the weight has columns that fill up
    std::vector<std::int8_t> integers;
    std::vector<std::int32_t> offsets;
    std::vector<std::int32_t> zero_points;
    std::vector<float> scales;

    std::size_t bytes() const;
  };
  static Buffers& kept_buffers();

  void quantize(std::span<const float> x, const LayerPlan* plan, std::size_t token);

  InputArithmetic arithmetic_;
  std::size_t columns_;  // of the weight
  std::size_t padded_columns_;
  std::size_t group_columns_;
  const float* floats_ = nullptr;  // [tokens, padded columns]
  Buffers buffers_;
};

// Writes all of `y` [tokens, rows]; any format but FP32. The result does not depend on threads or instruction set.
void multiply_packed(const PackedWeight& weight, const PackedInput& input, std::span<float> y, std::int64_t tokens,
                     const OutputArithmetic& output, const RunControl& control);

// The same for FP32, by the library's float multiplication.
void multiply_float32(const PackedWeight& weight, std::span<const float> x, std::span<float> y, std::int64_t tokens,
                      const OutputArithmetic& output, const RunControl& control);

}  // namespace diffulex_edge
