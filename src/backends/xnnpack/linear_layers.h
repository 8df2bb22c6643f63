// Linear layers in the delegate: which of XNNPACK's kernels computes one, and its filter and bias.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "backends/xnnpack/delegate_values.h"
#include "backends/xnnpack/static_linear.h"

namespace diffulex_edge::xnnpack {

class LinearLayers {
 public:
  explicit LinearLayers(DelegateValues& values) : values_(values) {}

  // Throws Error{kUnsupported} for a combination of formats that XNNPACK has no kernel for.
  void lower(ValueId value);
  // Adds what the layers' formats came to mean.
  void add_warnings();

 private:
  // How a linear layer is computed.
  struct LinearKernel {
    std::string name;              // input x weight, in XNNPACK's terms
    bool quantizes_input = false;  // per token, at run time
    DType input = DType::kF32;     // where it does not
    DType output = DType::kF32;
    bool bias_inside = true;  // false: a separate Add, in the output's type
  };

  LinearKernel choose_kernel(const LayerPlan& plan);
  // `kernel` is what it is packed for; `static_linear` that of a layer with static activations, else nullptr.
  XnnId filter(const LayerPlan& plan, const std::string& kernel,
               const std::shared_ptr<const StaticLinear>& static_linear = nullptr);
  // Converted to 8 bits from FP32 and back to it, whatever the type in which activations flow: a norm's result is in
  // FP32 anyway, and the runtime's direct conversion from FP16 rounds to the neighbouring step at times.
  void linear_in_int8(ValueId value, const LayerPlan& plan);
  // In 32-bit integers that count steps of input scale times weight scale: computed when the latter are known.
  XnnId static_bias(const Node& user, XnnId weight, const std::shared_ptr<const StaticLinear>& layer);
  // A bias that the layer's kernel adds.
  XnnId packed_bias(const Node& user, ValueId weight);

  DelegateValues& values_;
  std::int64_t stored_bytes_ = 0;  // of the last filter
  bool forced_dynamic_ = false;
  bool expands_fp16_ = false;
};

}  // namespace diffulex_edge::xnnpack
