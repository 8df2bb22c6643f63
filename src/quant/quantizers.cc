#include <algorithm>
#include <set>

#include "diffulex_edge/error.h"
#include "diffulex_edge/quantization.h"
#include "quant/layer_formats.h"
#include "quant/planner.h"

namespace diffulex_edge {
namespace {

QuantizationResult quantize_as(QuantizationDtype expected, const Model& model, const QuantizationConfig& config,
                               const CalibrationFindings& findings, const TargetArithmetic& target) {
  if (config.dtype != expected) {
    throw Error(ErrorCode::kInvalidArgument, "dtype",
                "this quantizer makes " + std::string(to_string(expected)) + ", the config asks for " +
                    std::string(to_string(config.dtype)));
  }
  return make_plan(model, config, findings, target);
}

}  // namespace

QuantizationResult FP16Quantizer::quantize(const Model& model, const QuantizationConfig& config,
                                           const CalibrationFindings& findings, const TargetArithmetic& target) const {
  return quantize_as(QuantizationDtype::FP16, model, config, findings, target);
}

QuantizationResult INT8Quantizer::quantize(const Model& model, const QuantizationConfig& config,
                                           const CalibrationFindings& findings, const TargetArithmetic& target) const {
  return quantize_as(QuantizationDtype::INT8, model, config, findings, target);
}

QuantizationResult INT4Quantizer::quantize(const Model& model, const QuantizationConfig& config,
                                           const CalibrationFindings& findings, const TargetArithmetic& target) const {
  return quantize_as(QuantizationDtype::INT4, model, config, findings, target);
}

QuantizationResult Quantizer::quantize(const Model& model, const QuantizationConfig& config,
                                       const CalibrationFindings& findings, const TargetArithmetic& target) const {
  if (!config.layer_formats.empty()) {
    return make_plan(model, config, findings, target);
  }
  switch (config.dtype) {
    case QuantizationDtype::FP16:
      return FP16Quantizer().quantize(model, config, findings, target);
    case QuantizationDtype::INT8:
      return INT8Quantizer().quantize(model, config, findings, target);
    case QuantizationDtype::INT4:
      return INT4Quantizer().quantize(model, config, findings, target);
    default:
      return make_plan(model, config, findings, target);
  }
}

QuantizationResult quantize_model(const Model& model, const QuantizationConfig& config,
                                  const CalibrationFindings& findings, const TargetArithmetic& target) {
  return Quantizer().quantize(model, config, findings, target);
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
  if (format_row(config.dtype).takes_groups) {
    config.group_size = stored.group_size;
    if (config.group_size != 0 && !is_group_size(config.group_size)) {
      throw Error(ErrorCode::kBadFile, (model.path / "config.json").string() + ": 'quantization_config'",
                  "has the group_size " + std::to_string(config.group_size) + ", not one of 0, 32, 64, 128, 256");
    }
  }
  return config;
}

std::vector<QuantizationDtype> dtypes_of(const QuantizationConfig& config) {
  std::set<QuantizationDtype> dtypes;
  for (const auto& [layer, format] : config.layer_formats) {
    dtypes.insert(format.dtype);
  }
  if (config.layer_formats.empty()) {
    dtypes = {config.dtype, config.embedding_dtype.value_or(config.dtype), config.head_dtype.value_or(config.dtype)};
  }
  return {dtypes.begin(), dtypes.end()};
}

bool changes_layers(const QuantizationPlan& plan) {
  return std::ranges::any_of(plan.layers,
                             [](const LayerPlan& layer) { return layer.dtype != QuantizationDtype::FP32; });
}

bool has_palettes(const QuantizationConfig& config) {
  return std::ranges::any_of(dtypes_of(config),
                             [](QuantizationDtype dtype) { return format_row(dtype).has_codebook(); });
}

QuantizationConfig with_palettes(QuantizationConfig config) {
  const auto replace = [](QuantizationDtype& dtype) {
    if (dtype == QuantizationDtype::INT4) {
      dtype = QuantizationDtype::PALETTE4;
    }
  };
  replace(config.dtype);
  for (std::optional<QuantizationDtype>* dtype : {&config.embedding_dtype, &config.head_dtype}) {
    if (*dtype) {
      replace(**dtype);
    }
  }
  for (auto& [layer, format] : config.layer_formats) {
    replace(format.dtype);
    format.group_size = format_row(format.dtype).takes_groups ? format.group_size : 0;
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
