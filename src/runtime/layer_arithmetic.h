// How a planned layer computes, whoever keeps its weights: what is done to its input and to its output.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "diffulex_edge/graph.h"
#include "diffulex_edge/quantization.h"
#include "diffulex_edge/runtime.h"
#include "quant/affine_scale.h"

namespace diffulex_edge {

// What a layer does to its input before multiplying.
enum class InputArithmetic { kFloat, kDynamicInt8, kStaticInt8 };

// Of a layer that may have no plan: float32 then. float16 is simulated as float32. Where every value of the graph is
// static, the input comes in integers already.
InputArithmetic input_arithmetic(const LayerPlan* layer);

// nullptr without a plan.
const LayerPlan* find_plan(const QuantizationPlan* plan, const Node& user, const std::string& tensor);

// What follows the product: the bias, and 8 bits for the output of a layer with static activations.
class OutputArithmetic {
 public:
  // `bias` is empty or has an element for each row; it must outlive this.
  OutputArithmetic(InputArithmetic input, const LayerPlan* plan, std::span<const float> bias);

  // Finishes `outputs`, those of rows [row_begin, row_begin + outputs.size()), in place.
  void finish(std::span<float> outputs, std::int64_t row_begin) const;

 private:
  std::span<const float> bias_;
  std::optional<AffineScale> scale_;
};

}  // namespace diffulex_edge
