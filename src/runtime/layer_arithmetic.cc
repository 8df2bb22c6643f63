#include "runtime/layer_arithmetic.h"

#include <algorithm>

#include "runtime/kernels/activation_kernels.h"

namespace diffulex_edge {

InputArithmetic input_arithmetic(const QuantizationPlan* plan, const LayerPlan* layer,
                                 ActivationArithmetic activations) {
  const bool is_quantized = layer != nullptr && layer->format.is_quantized() && layer->role == LayerRole::kLinear;
  if (!is_quantized || activations == ActivationArithmetic::FLOAT || plan->config.static_everywhere) {
    return InputArithmetic::kFloat;
  }
  if (layer->activations) {
    return InputArithmetic::kStaticInt8;
  }
  const bool grouped = layer->format.granularity == Granularity::kGroup;
  const bool is_dynamic = grouped || plan->config.mode == QuantizationMode::DYNAMIC;
  return is_dynamic && activations == ActivationArithmetic::XNNPACK ? InputArithmetic::kDynamicInt8
                                                                    : InputArithmetic::kFloat;
}

const LayerPlan* find_plan(const QuantizationPlan* plan, const Node& user, const std::string& tensor) {
  return plan == nullptr ? nullptr : &plan->at(user.name, tensor);
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
