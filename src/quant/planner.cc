#include "quant/planner.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "checkpoint/stored_weight.h"
#include "diffulex_edge/error.h"
#include "quant/arithmetic.h"
#include "quant/layer_formats.h"

namespace diffulex_edge {
namespace {

constexpr double kMegabyte = 1e6;

std::string lower(std::string_view text) {
  std::string result(text);
  std::ranges::transform(result, result.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return result;
}

// "embedding" is every embedding, whatever a module calls it ("embed_tokens", "wte").
bool matches(const std::vector<std::string>& patterns, const LayerPlan& layer) {
  const std::string name = lower(layer.layer);
  const std::string tensor = lower(layer.tensor);
  return std::ranges::any_of(patterns, [&](const std::string& pattern) {
    const std::string wanted = lower(pattern);
    return !wanted.empty() && (name.find(wanted) != std::string::npos || tensor.find(wanted) != std::string::npos ||
                               (layer.role == LayerRole::kEmbedding && wanted == to_string(LayerRole::kEmbedding)));
  });
}

// The head's canonical name, or a module's name for it ("model.lm_head").
bool is_head(const LayerPlan& layer) {
  return layer.role == LayerRole::kLinear && (layer.layer == "lm_head" || layer.layer.ends_with(".lm_head"));
}

void check_config(const QuantizationConfig& config) {
  if (config.group_size != 0 && !is_group_size(config.group_size)) {
    throw Error(ErrorCode::kInvalidArgument, "group size",
                std::to_string(config.group_size) + " is not one of 32, 64, 128, 256, or 0 for one scale per channel");
  }
  if (config.palette_group < 0) {
    throw Error(ErrorCode::kInvalidArgument, "palette group",
                std::to_string(config.palette_group) + " is not a number of rows, or 0 for all of them");
  }
  if (has_palettes(config) && config.method != RoundingMethod::RTN) {
    throw Error(ErrorCode::kInvalidArgument, "palette",
                "is found by k-means, not by method " + std::string(to_string(config.method)), "leave out --method");
  }
}

class Planner {
 public:
  Planner(const Model& model, const QuantizationConfig& config, const CalibrationFindings& findings,
          const TargetArithmetic& target)
      : model_(model), config_(config) {
    result_.plan = {.config = config, .findings = with_stored_ranges(findings, model), .target = target, .layers = {}};
  }

  QuantizationResult run() {
    check_experts();
    for (const Node& node : model_.graph.nodes()) {
      for (std::size_t i = 0; i < node.inputs.size(); ++i) {
        const Node& input = model_.graph.node(node.inputs[i]);
        if (input.op == Op::kWeight) {
          result_.plan.layers.push_back(plan_layer(node, i, model_.graph.tensor(node.inputs[i])));
        }
      }
    }
    check_layer_formats();
    warn_about_unused_patterns();
    sum_up();
    return std::move(result_);
  }

 private:
  // Targets with integers throughout have none for routes.
  void check_experts() const {
    const auto& nodes = model_.graph.nodes();
    if (result_.plan.is_static_everywhere() &&
        std::ranges::any_of(nodes, [](const Node& node) { return node.op == Op::kRoute; })) {
      throw Error(ErrorCode::kUnsupported, model_.config.architecture,
                  "has routed experts, which this target can't choose in integers", "use --mode weight_only");
    }
  }

  LayerPlan plan_layer(const Node& node, std::size_t input, const std::string& tensor) {
    const StoredWeight stored = find_stored_weight(*model_.checkpoint, tensor);
    LayerPlan layer;
    layer.layer = node.name;
    layer.tensor = tensor;
    layer.rows = stored.rows;
    layer.columns = stored.columns;
    layer.source = stored.format;
    layer.role = role_of(node, input);
    if (layer.role == LayerRole::kNorm || layer.role == LayerRole::kBias) {
      layer.format = float_format(ElementType::kF32);
    } else {
      decide_format(layer);
    }
    const bool is_output = &node - model_.graph.nodes().data() == model_.graph.output();
    layer.arithmetic = choose_arithmetic(layer, is_output, config_, result_.plan.target);
    if (layer.arithmetic.activations == LayerArithmetic::Activations::kStatic) {
      set_activations(layer);
    }
    return layer;
  }

  void decide_format(LayerPlan& layer) {
    const LayerFormat wanted = wanted_format(layer);
    layer.dtype = wanted.dtype;
    if (layer.source.is_quantized()) {
      keep_stored_format(layer, wanted);
    } else {
      layer.format = choose_format(layer, wanted);
      layer.method = layer.format.is_quantized() ? config_.method : RoundingMethod::RTN;
      set_importance(layer);
    }
  }

  static LayerRole role_of(const Node& node, std::size_t input) {
    switch (node.op) {
      case Op::kEmbedding:
        return LayerRole::kEmbedding;
      case Op::kRmsNorm:
      case Op::kLayerNorm:
        return LayerRole::kNorm;
      case Op::kLinear:
        return input == 1 ? LayerRole::kLinear : LayerRole::kBias;
      case Op::kRoute:
        return LayerRole::kBias;
      default:
        throw Error(ErrorCode::kInternal, std::string(to_string(node.op)), "has a weight that no plan covers");
    }
  }

  bool is_mixed() const { return !config_.layer_formats.empty(); }

  // What the config asks for, before the layer's shape is considered.
  LayerFormat wanted_format(LayerPlan& layer) const {
    if (!is_mixed()) {
      return {.dtype = choose_dtype(layer), .group_size = config_.group_size};
    }
    const auto found = config_.layer_formats.find(layer.layer);
    if (found == config_.layer_formats.end()) {
      throw Error(ErrorCode::kInvalidArgument, layer.layer, "the plan has no format for it",
                  "a mixed-precision plan names every linear layer and the embedding");
    }
    return found->second;
  }

  QuantizationDtype choose_dtype(LayerPlan& layer) const {
    std::optional<QuantizationDtype> chosen;
    if (layer.role == LayerRole::kEmbedding) {
      chosen = config_.embedding_dtype;
    } else if (is_head(layer)) {
      chosen = config_.head_dtype;
    }
    if (chosen) {
      return *chosen;
    }
    layer.excluded = matches(config_.exclude_layers, layer);
    return layer.excluded ? QuantizationDtype::FP32 : config_.dtype;
  }

  WeightFormat choose_format(const LayerPlan& layer, const LayerFormat& wanted) {
    const FormatRow& row = format_row(wanted.dtype);
    if (row.has_codebook()) {
      return row.format(rows_of_table(layer));
    }
    return row.format(row.takes_groups ? choose_group(layer, wanted.group_size) : 0);
  }

  // 0: one table for the whole weight.
  std::int64_t rows_of_table(const LayerPlan& layer) const {
    const std::int64_t group = config_.palette_group;
    if (group != 0 && layer.rows % group != 0) {
      throw Error(ErrorCode::kUnsupported, layer.layer,
                  "has " + std::to_string(layer.rows) + " rows: groups of " + std::to_string(group) + " rows " +
                      (group > layer.rows ? "are larger than that" : "do not divide them"),
                  "choose another --palette-group, or exclude the layer");
    }
    return group;
  }

  void set_importance(LayerPlan& layer) const {
    const auto& known = result_.plan.findings.input_importance;
    const auto found = known.find(layer.layer);
    if (layer.format.has_codebook() && found != known.end()) {
      layer.importance = found->second;
    }
  }

  // The largest allowed group size up to the wanted one that divides a row; 0 if there is none, or for one scale a row.
  static std::int64_t usable_group_size(std::int64_t columns, std::int64_t wanted) {
    const auto fits = [&](std::int64_t size) { return size <= wanted && columns % size == 0; };
    const auto size = std::ranges::find_if(group_sizes(), fits);
    return size == group_sizes().end() ? 0 : *size;
  }

  // The group size that the layer gets; 0: one scale for each channel.
  std::int64_t choose_group(const LayerPlan& layer, std::int64_t wanted) {
    if (wanted == 0) {
      return 0;
    }
    const bool is_strict = config_.strict_group_size || is_mixed();
    const std::int64_t size = usable_group_size(layer.columns, wanted);
    if (size == 0 || (size != wanted && is_strict)) {
      throw Error(ErrorCode::kInvalidArgument, layer.layer,
                  "groups of " + std::to_string(wanted) + " do not divide its input of " +
                      std::to_string(layer.columns) + (is_strict ? "" : ", nor does a smaller group size"),
                  is_mixed() ? "give it another format in the plan"
                             : "exclude the layer, use INT8, or group size 0 for one scale per channel");
    }
    if (size != wanted) {
      result_.warnings.push_back(layer.layer + ": groups of " + std::to_string(wanted) +
                                 " do not divide its input of " + std::to_string(layer.columns) +
                                 "; it gets groups of " + std::to_string(size));
    }
    return size;
  }

  // A quantized checkpoint's integers are final: they go out as they are, or not at all.
  void keep_stored_format(LayerPlan& layer, const LayerFormat& wanted) {
    const FormatRow& row = format_row(layer.source.element);
    const QuantizationDtype stored = row.dtype;
    const bool group_differs =
        row.takes_groups && layer.source.group_size != usable_group_size(layer.columns, wanted.group_size);
    if (!layer.excluded && (layer.dtype != stored || group_differs)) {
      throw Error(ErrorCode::kInvalidArgument, layer.tensor,
                  "the checkpoint stores it as " + to_string(layer.source) + ", it can't become " +
                      std::string(to_string(layer.dtype)) +
                      (group_differs ? " in groups of " + std::to_string(wanted.group_size) : std::string()),
                  "start from the unquantized checkpoint");
    }
    if (layer.excluded) {
      result_.warnings.push_back(layer.layer + ": is excluded, but the checkpoint stores it as " +
                                 to_string(layer.source) + ", and so it stays");
      layer.excluded = false;
    }
    layer.dtype = stored;
    layer.format = layer.source;
  }

  void set_activations(LayerPlan& layer) const {
    const auto& known = result_.plan.findings.layers;
    const auto found = known.find(layer.layer);
    if (found == known.end()) {
      throw Error(ErrorCode::kInvalidArgument, layer.layer, "mode static needs the range of its activations",
                  "give calibration data (--calibration FILE), or use --mode dynamic");
    }
    for (const ActivationRange& range : {found->second.input, found->second.output}) {
      if (!std::isfinite(range.min) || !std::isfinite(range.max) || range.min > range.max) {
        throw Error(ErrorCode::kInvalidArgument, layer.layer,
                    "its activations are said to lie in [" + std::to_string(range.min) + ", " +
                        std::to_string(range.max) + "], which is not a range",
                    "calibrate again");
      }
    }
    layer.activations = found->second;
  }

  void check_layer_formats() const {
    std::set<std::string_view> known;
    for (const LayerPlan& layer : result_.plan.layers) {
      known.insert(layer.layer);
    }
    for (const auto& [name, unused] : config_.layer_formats) {
      if (!known.contains(name)) {
        throw Error(ErrorCode::kInvalidArgument, name, "the plan gives it a format, but the model has no such layer",
                    "make the plan for this model");
      }
    }
  }

  void warn_about_unused_patterns() {
    if (is_mixed()) {
      return;
    }
    const QuantizationConfig defaults;
    for (const std::string& pattern : config_.exclude_layers) {
      const bool is_default = std::ranges::find(defaults.exclude_layers, pattern) != defaults.exclude_layers.end();
      const bool used =
          std::ranges::any_of(result_.plan.layers, [&](const LayerPlan& layer) { return matches({pattern}, layer); });
      if (!used && !is_default) {
        result_.warnings.push_back("exclude pattern '" + pattern + "' matches no layer");
      }
    }
  }

  void sum_up() {
    std::set<std::string> seen;
    for (const LayerPlan& layer : result_.plan.layers) {
      if (seen.insert(layer.tensor).second) {
        result_.parameters += layer.parameters();
      }
    }
    result_.original_memory_mb = 4.0 * static_cast<double>(result_.parameters) / kMegabyte;
    result_.quantized_memory_mb = static_cast<double>(planned_bytes(result_.plan)) / kMegabyte;
  }

  const Model& model_;
  const QuantizationConfig& config_;
  QuantizationResult result_;
};

}  // namespace

CalibrationFindings with_stored_ranges(CalibrationFindings findings, const Model& model) {
  if (findings.layers.empty() && model.stored_quantization) {
    findings.layers = model.stored_quantization->activations;
  }
  return findings;
}

QuantizationResult make_plan(const Model& model, const QuantizationConfig& config, const CalibrationFindings& findings,
                             const TargetArithmetic& target) {
  check_config(config);
  return Planner(model, config, findings, target).run();
}

std::int64_t planned_bytes(const QuantizationPlan& plan) {
  std::set<std::pair<std::string, std::string>> seen;
  std::int64_t total = 0;
  for (const LayerPlan& layer : plan.layers) {
    if (seen.emplace(layer.tensor, to_string(layer.format)).second) {
      total += layer.value_bytes() + layer.scale_bytes();
    }
  }
  return total;
}

}  // namespace diffulex_edge
