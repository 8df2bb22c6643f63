// FP8 as DeepSeek-V3, Qwen3-FP8 and vLLM's "fp8" have it: NAME.weight in E4M3 or E5M2 [out, in], with one scale for
// each block in NAME.weight_scale_inv [ceil(out / 128), ceil(in / 128)], or for the tensor in NAME.weight_scale. value
// = element * scale, whatever "inv" suggests: it is the inverse of what the weights were multiplied by.

#include <utility>

#include "checkpoint/prequantized/methods.h"
#include "checkpoint/prequantized/packed_values.h"
#include "checkpoint/prequantized/scaled_weight.h"
#include "checkpoint/row_decoder.h"

namespace diffulex_edge {

std::int64_t read_fp8(Checkpoint& checkpoint, const PrequantizedScheme& scheme) {
  std::int64_t count = 0;
  for (const std::string& prefix : prefixes_of(checkpoint, ".weight")) {
    const LayerTensors layer(checkpoint, prefix);
    const TensorView& values = *layer.find(".weight");
    if (values.dtype != DType::kF8E4M3 && values.dtype != DType::kF8E5M2) {
      continue;
    }
    if (values.shape.size() != 2) {
      fail_tensor(values, "has the shape " + shape_string(values) + ", not two dimensions");
    }
    const bool is_inverse = layer.find(".weight_scale_inv") != nullptr;
    const TensorView& scales =
        layer.require(is_inverse ? ".weight_scale_inv" : ".weight_scale", {DType::kF32, DType::kBF16, DType::kF16});
    const ScaleBlocks blocks =
        scale_blocks(scales, values.shape[0], values.shape[1], scheme.block_rows, scheme.block_columns);
    const std::string what = "FP8 " + to_string(blocks, values.shape[0], values.shape[1]);
    const std::vector<std::string> replaced =
        layer.present({".weight", ".weight_scale_inv", ".weight_scale", ".input_scale", ".activation_scale"});
    checkpoint.replace(replaced, make_scaled_weight(TensorView(values), TensorView(scales), nullptr, blocks, what));
    ++count;
  }
  return count;
}

}  // namespace diffulex_edge
