#include "backends/export_config.h"

#include <algorithm>
#include <utility>

#include "diffulex_edge/error.h"

namespace diffulex_edge {

BackendConfig with_static_mode(BackendConfig config) {
  if (config.activation_dtype == ActivationDtype::INT8 && config.quant_config.mode == QuantizationMode::WEIGHT_ONLY) {
    config.quant_config.mode = QuantizationMode::STATIC;
  }
  return config;
}

void check_not_dynamic(const BackendConfig& config, const std::string& advice) {
  const bool has_integers =
      config.activation_dtype == ActivationDtype::INT8 || config.activation_dtype == ActivationDtype::INT16;
  if (has_integers && config.quant_config.mode == QuantizationMode::DYNAMIC) {
    throw Error(ErrorCode::kInvalidArgument, "activation dtype " + std::string(to_string(*config.activation_dtype)),
                "is mode static, not dynamic", advice);
  }
}

void check_some_layer_is_static(const BackendConfig& config, const QuantizationPlan& plan, const std::string& backend) {
  const auto is_static = [](const LayerPlan& layer) { return layer.activations.has_value(); };
  if (config.activation_dtype == ActivationDtype::INT8 && std::ranges::none_of(plan.layers, is_static)) {
    throw Error(ErrorCode::kUnsupported, "activation dtype int8", backend + " takes it with INT8 and INT4 weights only",
                "use --dtype int8");
  }
}

ExportMetadata describe_export(const Model& model, const QuantizationResult& quantization,
                               std::vector<StoredLayer> layers, const std::vector<std::string>& warnings) {
  constexpr double kMebibyte = 1024.0 * 1024.0;
  ExportMetadata metadata;
  metadata.seq_len = model.seq_len;
  metadata.parameters = quantization.parameters;
  metadata.original_memory_mb = quantization.original_memory_mb;
  metadata.layers = std::move(layers);
  metadata.warnings = model.warnings;
  metadata.warnings.insert(metadata.warnings.end(), warnings.begin(), warnings.end());
  std::int64_t stored = 0;
  for (const StoredLayer& layer : metadata.layers) {
    stored += layer.stored_bytes;
  }
  metadata.quantized_memory_mb = static_cast<double>(stored) / kMebibyte;
  return metadata;
}

}  // namespace diffulex_edge
