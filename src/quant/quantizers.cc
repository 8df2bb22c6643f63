#include <algorithm>
#include <array>

#include "diffulex_edge/error.h"
#include "diffulex_edge/quantization.h"
#include "quant/planner.h"

namespace diffulex_edge {
namespace {

QuantizationResult quantize_as(QuantizationDtype expected, const Model& model, const QuantizationConfig& config) {
  if (config.dtype != expected) {
    throw Error(ErrorCode::kInvalidArgument, "dtype",
                "this quantizer makes " + std::string(to_string(expected)) + ", the config asks for " +
                    std::string(to_string(config.dtype)));
  }
  return make_plan(model, config);
}

}  // namespace

QuantizationResult FP16Quantizer::quantize(const Model& model, const QuantizationConfig& config) const {
  return quantize_as(QuantizationDtype::FP16, model, config);
}

QuantizationResult INT8Quantizer::quantize(const Model& model, const QuantizationConfig& config) const {
  return quantize_as(QuantizationDtype::INT8, model, config);
}

QuantizationResult INT4Quantizer::quantize(const Model& model, const QuantizationConfig& config) const {
  return quantize_as(QuantizationDtype::INT4, model, config);
}

QuantizationResult Quantizer::quantize(const Model& model, const QuantizationConfig& config) const {
  if (!config.layer_formats.empty()) {
    return make_plan(model, config);
  }
  switch (config.dtype) {
    case QuantizationDtype::FP32:
      return make_plan(model, config);
    case QuantizationDtype::FP16:
      return FP16Quantizer().quantize(model, config);
    case QuantizationDtype::INT8:
      return INT8Quantizer().quantize(model, config);
    case QuantizationDtype::INT4:
      return INT4Quantizer().quantize(model, config);
  }
  throw Error(ErrorCode::kInternal, "dtype", "unknown");
}

QuantizationResult quantize_model(const Model& model, const QuantizationConfig& config) {
  return Quantizer().quantize(model, config);
}

QuantizationConfig default_quantization_config(const Model& model) {
  QuantizationConfig config;
  if (!model.stored_quantization) {
    return config;
  }
  const StoredQuantization& stored = *model.stored_quantization;
  const auto optional_dtype = [](const std::optional<std::string>& text) {
    return text ? std::optional(parse_quantization_dtype(*text)) : std::nullopt;
  };
  try {
    config.dtype = parse_quantization_dtype(stored.dtype);
    config.mode = parse_quantization_mode(stored.mode);
    config.embedding_dtype = optional_dtype(stored.embedding_dtype);
    config.head_dtype = optional_dtype(stored.head_dtype);
    for (const auto& [layer, format] : stored.layer_formats) {
      config.layer_formats[layer] = parse_layer_format(format);
    }
  } catch (const Error& error) {
    throw Error(ErrorCode::kBadFile, (model.path / "config.json").string() + ": 'quantization_config'", error.what());
  }
  config.exclude_layers = stored.exclude_layers;
  config.activations = stored.activations;
  if (config.dtype == QuantizationDtype::INT4) {
    config.group_size = stored.group_size;
    constexpr std::array<std::int64_t, 5> kGroupSizes = {0, 32, 64, 128, 256};
    if (std::ranges::find(kGroupSizes, config.group_size) == kGroupSizes.end()) {
      throw Error(ErrorCode::kBadFile, (model.path / "config.json").string() + ": 'quantization_config'",
                  "has the group_size " + std::to_string(config.group_size) + ", not one of 0, 32, 64, 128, 256");
    }
  }
  return config;
}

const LayerPlan& QuantizationPlan::at(std::string_view layer, std::string_view tensor) const {
  const auto position = std::ranges::find_if(
      layers, [&](const LayerPlan& candidate) { return candidate.layer == layer && candidate.tensor == tensor; });
  if (position == layers.end()) {
    throw Error(ErrorCode::kInternal, std::string(layer), "has no plan for tensor " + std::string(tensor));
  }
  return *position;
}

double QuantizationResult::memory_reduction_pct() const {
  return original_memory_mb > 0.0 ? 100.0 * (1.0 - quantized_memory_mb / original_memory_mb) : 0.0;
}

double QuantizationResult::compression_ratio() const {
  return quantized_memory_mb > 0.0 ? original_memory_mb / quantized_memory_mb : 1.0;
}

}  // namespace diffulex_edge
