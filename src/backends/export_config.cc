#include "backends/export_config.h"

#include <algorithm>
#include <utility>

#include "diffulex_edge/error.h"

namespace diffulex_edge {

namespace {

bool wants_integers(const BackendConfig& config) {
  return config.activation_dtype == ActivationDtype::INT8 || config.activation_dtype == ActivationDtype::INT16;
}

std::string name_of_activations(const BackendConfig& config) {
  return "activation dtype " + std::string(to_string(config.activation_dtype.value_or(ActivationDtype::FP32)));
}

}  // namespace

BackendConfig with_static_mode(BackendConfig config) {
  if (wants_integers(config) && config.quant_config.mode == QuantizationMode::WEIGHT_ONLY) {
    config.quant_config.mode = QuantizationMode::STATIC;
  }
  return config;
}

void check_not_dynamic(const BackendConfig& config, const std::string& advice) {
  if (wants_integers(config) && config.quant_config.mode == QuantizationMode::DYNAMIC) {
    throw Error(ErrorCode::kInvalidArgument, name_of_activations(config), "is mode static, not dynamic", advice);
  }
}

void check_takes_integers(const BackendConfig& config, bool has_them, const std::string& backend) {
  if (wants_integers(config) && !has_them) {
    throw Error(ErrorCode::kUnsupported, name_of_activations(config),
                backend + " takes it with INT8 and INT4 weights only", "use --dtype int8");
  }
}

bool has_static_layer(const QuantizationPlan& plan) {
  return std::ranges::any_of(plan.layers, [](const LayerPlan& layer) { return layer.activations.has_value(); });
}

void check_length(const InputLengths& lengths, const Model& model, const std::string& what) {
  if (lengths.longest() != model.seq_len) {
    throw Error(
        ErrorCode::kInvalidArgument, "sequence length",
        what + " has " + std::to_string(lengths.longest()) + " tokens, the model " + std::to_string(model.seq_len));
  }
}

std::string describe_quantization(const QuantizationConfig& config) {
  std::string text = config.layer_formats.empty() ? "dtype=" + std::string(to_string(config.dtype)) : "mixed precision";
  text += ", mode=" + std::string(to_string(config.mode)) + ", method=" + std::string(to_string(config.method));
  if (config.dtype == QuantizationDtype::INT4 && !config.palettes) {
    text += ", group_size=" + std::to_string(config.group_size);
  }
  return text;
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
