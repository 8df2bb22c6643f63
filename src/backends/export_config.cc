#include "backends/export_config.h"

#include <algorithm>
#include <utility>

#include "diffulex_edge/error.h"
#include "quant/layer_formats.h"

namespace diffulex_edge {

namespace {

std::string name_of_activations(const BackendConfig& config) {
  return "activation dtype " + std::string(to_string(config.activation_dtype.value_or(ActivationDtype::FP32)));
}

}  // namespace

bool wants_integer_activations(const BackendConfig& config) {
  return config.activation_dtype == ActivationDtype::INT8 || config.activation_dtype == ActivationDtype::INT16;
}

void check_formats(const BackendDescription& backend, const QuantizationConfig& config) {
  for (const QuantizationDtype dtype : dtypes_of(config)) {
    const Support support = backend.support(dtype, config.mode);
    if (support.level == SupportLevel::kUnsupported) {
      throw Error(ErrorCode::kUnsupported, "dtype " + std::string(to_string(dtype)), support.note, support.advice);
    }
  }
}

void check_not_dynamic(const BackendConfig& config, const std::string& advice) {
  if (wants_integer_activations(config) && config.quant_config.mode == QuantizationMode::DYNAMIC) {
    throw Error(ErrorCode::kInvalidArgument, name_of_activations(config), "is mode static, not dynamic", advice);
  }
}

void check_takes_integers(const BackendConfig& config, bool has_them, const std::string& backend) {
  if (wants_integer_activations(config) && !has_them) {
    throw Error(ErrorCode::kUnsupported, name_of_activations(config),
                backend + " takes it with INT8 and INT4 weights only", "use --dtype int8");
  }
}

bool has_static_layer(const QuantizationPlan& plan) {
  return std::ranges::any_of(plan.layers, [](const LayerPlan& layer) {
    return layer.arithmetic.activations == LayerArithmetic::Activations::kStatic ||
           layer.arithmetic.activations == LayerArithmetic::Activations::kStaticInGraph;
  });
}

void check_length(const InputLengths& lengths, const Model& model, const std::string& what) {
  if (lengths.longest() != model.seq_len) {
    throw Error(
        ErrorCode::kInvalidArgument, "sequence length",
        what + " has " + std::to_string(lengths.longest()) + " tokens, the model " + std::to_string(model.seq_len));
  }
}

void check_rank(const Model& model, std::size_t most, const std::string& runtime) {
  for (const Node& node : model.graph.nodes()) {
    if (node.shape.size() > most) {
      const std::string name = node.name.empty() ? "operator " + std::string(to_string(node.op)) : node.name;
      throw Error(ErrorCode::kUnsupported, name,
                  "its value has the shape " + to_string(node.shape) + ", and " + runtime + " takes at most " +
                      std::to_string(most) + " dimensions",
                  "reshape the model's inputs");
    }
  }
}

void check_no_experts(const Model& model, const std::string& backend) {
  const bool has_experts =
      std::ranges::any_of(model.graph.nodes(), [](const Node& node) { return node.op == Op::kRoute; });
  if (has_experts) {
    throw Error(ErrorCode::kUnsupported, model.path.empty() ? model.config.architecture : model.path.string(),
                "has routed experts, and " + backend + " can't choose among them at run time",
                "export with --backend xnnpack, or run it here: generate, chat, serve, evaluate and quantize take it");
  }
}

std::string describe_quantization(const Model& model, const QuantizationConfig& config) {
  const RoundingMethod method = model.stored_quantization ? RoundingMethod::RTN : config.method;
  std::string text = config.layer_formats.empty() ? "dtype=" + std::string(to_string(config.dtype)) : "mixed precision";
  text += ", mode=" + std::string(to_string(config.mode)) + ", method=" + std::string(to_string(method));
  if (format_row(config.dtype).takes_groups) {
    text += ", group_size=" + std::to_string(config.group_size);
  }
  return text;
}

ExportMetadata describe_export(const Model& model, const QuantizationResult& quantization,
                               std::vector<StoredLayer> layers, const std::vector<std::string>& warnings) {
  constexpr double kMegabyte = 1e6;
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
  metadata.quantized_memory_mb = static_cast<double>(stored) / kMegabyte;
  return metadata;
}

}  // namespace diffulex_edge
