#include "runtime/layer_arithmetic.h"

#include <algorithm>

#include "quant/affine_scale.h"
#include "runtime/kernels/activation_kernels.h"

namespace diffulex_edge {

InputArithmetic input_arithmetic(const LayerPlan* layer) {
  if (layer == nullptr) {
    return InputArithmetic::kFloat;
  }
  switch (layer->arithmetic.activations) {
    case LayerArithmetic::Activations::kDynamic:
      return InputArithmetic::kDynamicInt8;
    case LayerArithmetic::Activations::kStatic:
      return InputArithmetic::kStaticInt8;
    case LayerArithmetic::Activations::kFloat32:
    case LayerArithmetic::Activations::kFloat16:
    case LayerArithmetic::Activations::kStaticInGraph:
      break;
  }
  return InputArithmetic::kFloat;
}

const LayerPlan* find_plan(const QuantizationPlan* plan, const Node& user, const std::string& tensor) {
  return plan == nullptr ? nullptr : &plan->at(user.name, tensor);
}

QuantizationPlan with_float_activations(QuantizationPlan plan) {
  plan.target = {.has_dynamic = false, .groups_are_dynamic = false};
  for (LayerPlan& layer : plan.layers) {
    layer.arithmetic = {};
  }
  return plan;
}

OutputArithmetic::OutputArithmetic(InputArithmetic input, const LayerPlan* plan, std::span<const float> bias)
    : bias_(bias) {
  if (input == InputArithmetic::kStaticInt8 && plan != nullptr && plan->activations) {
    scale_ = affine_scale(plan->activations->output, 8);
  }
}

void OutputArithmetic::finish(std::span<float> outputs, std::int64_t row_begin) const {
  float* row = outputs.data();
  if (!bias_.empty()) {
    kernels::add_rows(row, bias_.data() + row_begin, row, outputs.size());
  }
  if (scale_) {
    kernels::quantize_row_static(row, row, outputs.size(), scale_->scale, scale_->zero_point);
    std::ranges::for_each(outputs, [scale = scale_->scale](float& value) { value *= scale; });
  }
}

}  // namespace diffulex_edge
