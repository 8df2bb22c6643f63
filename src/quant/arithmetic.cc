#include "quant/arithmetic.h"

#include <algorithm>

#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

using Activations = LayerArithmetic::Activations;

constexpr int kDynamicBits = 8;

bool is_integer(QuantizationDtype dtype) { return format_row(dtype).is_grid(); }

bool has_static_kernel(bool in_groups, const TargetArithmetic& target) {
  return !in_groups || target.has_static_groups;
}

LayerArithmetic floats(const LayerPlan& layer, const TargetArithmetic& target) {
  using Half = TargetArithmetic::Half;
  const bool is_half =
      target.half == Half::kAlways || (target.half == Half::kFP16Weights && layer.format.element == ElementType::kF16);
  return {.activations = is_half ? Activations::kFloat16 : Activations::kFloat32, .bits = 0};
}

LayerArithmetic in_mode_static(const LayerPlan& layer, bool in_groups, const TargetArithmetic& target) {
  if (target.static_everywhere) {
    throw Error(ErrorCode::kUnsupported, layer.layer,
                "in mode static, integers on this target need linear layers that are INT8 or INT4 throughout",
                "use --dtype int8, or --mode weight_only");
  }
  if (!has_static_kernel(in_groups, target)) {
    throw Error(ErrorCode::kUnsupported, layer.layer,
                "mode static has no kernel for " + std::string(format_row(layer.dtype).title) + " weights in groups",
                "use --dtype int8, --group-size 0, or --mode dynamic");
  }
  return {.activations = Activations::kStatic, .bits = target.static_bits};
}

}  // namespace

bool has_integers(const QuantizationConfig& config) {
  return config.layer_formats.empty() ? is_integer(config.dtype)
                                      : std::ranges::any_of(config.layer_formats, [](const auto& entry) {
                                          return is_integer(entry.second.dtype);
                                        });
}

bool is_static_everywhere(const QuantizationConfig& config, const TargetArithmetic& target) {
  return config.mode == QuantizationMode::STATIC && target.static_everywhere && has_integers(config);
}

bool QuantizationPlan::is_static_everywhere() const { return diffulex_edge::is_static_everywhere(config, target); }

bool has_static_kernel(const LayerFormat& format, const TargetArithmetic& target) {
  return has_static_kernel(format_row(format.dtype).takes_groups && format.group_size != 0, target);
}

LayerArithmetic choose_arithmetic(const LayerPlan& layer, bool is_output, const QuantizationConfig& config,
                                  const TargetArithmetic& target) {
  const bool is_quantized_linear = layer.role == LayerRole::kLinear && layer.format.is_quantized();
  if (is_static_everywhere(config, target)) {
    const bool has_float_output = is_output && layer.role == LayerRole::kLinear && !is_quantized_linear;
    return has_float_output ? floats(layer, target)
                            : LayerArithmetic{.activations = Activations::kStaticInGraph, .bits = target.static_bits};
  }
  if (!is_quantized_linear) {
    return floats(layer, target);
  }
  const bool in_groups = layer.format.granularity == Granularity::kGroup;
  if (config.mode == QuantizationMode::STATIC) {
    return in_mode_static(layer, in_groups, target);
  }
  const bool is_dynamic =
      (config.mode == QuantizationMode::DYNAMIC && target.has_dynamic) || (in_groups && target.groups_are_dynamic);
  return is_dynamic ? LayerArithmetic{.activations = Activations::kDynamic, .bits = kDynamicBits}
                    : floats(layer, target);
}

std::string to_string(const LayerArithmetic& arithmetic) {
  const std::string integers = "int" + std::to_string(arithmetic.bits);
  switch (arithmetic.activations) {
    case Activations::kFloat32:
      return "fp32";
    case Activations::kFloat16:
      return "fp16";
    case Activations::kDynamic:
      return "dynamic " + integers;
    case Activations::kStatic:
      return "static " + integers;
    case Activations::kStaticInGraph:
      return "static " + integers + " throughout";
  }
  throw Error(ErrorCode::kInternal, {}, "unknown arithmetic");
}

}  // namespace diffulex_edge
