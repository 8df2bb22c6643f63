// Static ranges of activations, from a float32 run.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <map>
#include <numeric>
#include <optional>

#include "diffulex_edge/calibration.h"
#include "diffulex_edge/error.h"
#include "runtime/executor.h"
#include "runtime/layer_statistics.h"
#include "runtime/linear_layers.h"
#include "runtime/observer.h"

namespace diffulex_edge {
namespace {

bool is_static(const QuantizationConfig& config) {
  if (config.mode == QuantizationMode::STATIC && config.static_everywhere) {
    return true;
  }
  const auto has_kernel = [](QuantizationDtype dtype, std::int64_t group_size) {
    return dtype == QuantizationDtype::INT8 || (dtype == QuantizationDtype::INT4 && group_size == 0);
  };
  const bool has_kernels = config.layer_formats.empty()
                               ? has_kernel(config.dtype, config.group_size)
                               : std::ranges::any_of(config.layer_formats, [&](const auto& entry) {
                                   return has_kernel(entry.second.dtype, entry.second.group_size);
                                 });
  return config.mode == QuantizationMode::STATIC && has_kernels;
}

bool uses_inputs(RoundingMethod method) {
  return method == RoundingMethod::GPTQ || method == RoundingMethod::AWQ || method == RoundingMethod::AUTO;
}

bool weighs_inputs(const Model& model, const QuantizationConfig& config) {
  const bool has_integers = config.dtype == QuantizationDtype::INT8 || config.dtype == QuantizationDtype::INT4;
  return config.method == RoundingMethod::MSE && has_integers && !config.palettes && !model.stored_quantization;
}

bool weighs_palettes(const QuantizationConfig& config) {
  const auto is_int4 = [](const auto& entry) { return entry.second.dtype == QuantizationDtype::INT4; };
  return config.palettes &&
         (config.dtype == QuantizationDtype::INT4 || std::ranges::any_of(config.layer_formats, is_int4));
}

// The mean of x_j^2 for each column j, where each token counts relative to its size |x|^2.
std::vector<float> column_importance(const Activations& x) {
  std::vector<double> sums(static_cast<std::size_t>(x.width));
  for (std::int64_t token = 0; token < x.rows; ++token) {
    const auto row = x.row(token);
    const double square =
        std::transform_reduce(row.begin(), row.end(), 0.0, std::plus<>(), [](double value) { return value * value; });
    for (std::size_t j = 0; square > 0.0 && j < row.size(); ++j) {
      sums[j] += static_cast<double>(row[j]) * static_cast<double>(row[j]) / square;
    }
  }
  std::vector<float> importance;
  for (const double sum : sums) {
    importance.push_back(static_cast<float>(sum / static_cast<double>(x.rows)));
  }
  return importance;
}

class ActivationCalibrator {
 public:
  ActivationCalibrator(const Model& model, QuantizationConfig& config, const CalibrationData& data,
                       const CalibrationOptions& options, const RunControl& control)
      : model_(model),
        config_(config),
        options_(options),
        masked_(masked_tokens(data)),
        layers_(model, nullptr),
        executor_(model, data.inputs, layers_, control),
        control_(control) {
    result_.sequences = static_cast<std::int64_t>(data.inputs.size());
    result_.tokens = executor_.tokens();
    result_.masked_tokens = std::ranges::count(masked_, true);
    if (config_.static_everywhere) {
      observed_.values.resize(model.graph.nodes().size());
      executor_.observe_scores();
    }
  }

  CalibrationResult run() {
    const auto start = std::chrono::steady_clock::now();
    const auto total = static_cast<std::int64_t>(model_.graph.nodes().size());
    while (const Node* node = executor_.next()) {
      if (node->op == Op::kLinear) {
        observe_layer(*node);
      } else {
        executor_.step();
      }
      if (config_.static_everywhere) {
        observe_value(*node);
      }
      if (control_.on_progress) {
        control_.on_progress(
            {.stage = "calibration", .done_bytes = executor_.last() + 1, .total_bytes = total, .in_bytes = false});
      }
    }
    if (quantizes_head() || config_.static_everywhere) {
      observe_head();
    }
    if (config_.static_everywhere) {
      config_.graph_activations = std::move(observed_);
    }
    result_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return std::move(result_);
  }

 private:
  // Layers that share an input share its statistics.
  const LayerStatistics& statistics_of(const Node& node) {
    const ValueId id = node.inputs[0];
    if (config_.palettes) {
      config_.input_importance[node.name] =
          id == input_ ? config_.input_importance.at(last_layer_) : column_importance(executor_.value(id));
      last_layer_ = node.name;
    }
    if (id != input_) {
      input_statistics_ = measure_input(node.name, executor_.value(id), masked_, options_, control_);
      input_ = id;
    }
    return input_statistics_;
  }

  void observe_layer(const Node& node) {
    LayerStatistics statistics = statistics_of(node);
    statistics.layer = node.name;
    executor_.step();
    statistics.chosen.output = observe_values(node.name, executor_.value(executor_.last()).data, options_);
    config_.activations[node.name] = statistics.chosen;
    result_.statistics.push_back(std::move(statistics));
  }

  // What the last step made.
  void observe_value(const Node& node) {
    const ValueId value = executor_.last();
    observed_.values[static_cast<std::size_t>(value)] = range_of_value(node, value);
    if (const std::optional<ActivationRange>& scores = executor_.scores(); scores && node.op == Op::kAttention) {
      observed_.scores[value] = *scores;
    }
  }

  ActivationRange range_of_value(const Node& node, ValueId value) const {
    if (node.op == Op::kReshape) {
      return observed_.values[static_cast<std::size_t>(node.inputs[0])];
    }
    CalibrationOptions options = options_;
    if (config_.activation_bits > 8) {
      options.observer = Observer::MIN_MAX;
    } else if (node.op == Op::kLinear) {
      return config_.activations.at(node.name).output;  // observed with the layer
    }
    const std::string where = node.name.empty() ? std::string(to_string(node.op)) : node.name;
    return observe_values(where, executor_.value(value).data, options);
  }

  bool quantizes_head() const {
    std::optional<QuantizationDtype> dtype = config_.head_dtype;
    if (const auto found = config_.layer_formats.find("lm_head"); found != config_.layer_formats.end()) {
      dtype = found->second.dtype;
    }
    return dtype == QuantizationDtype::INT8 || dtype == QuantizationDtype::INT4;
  }

  // Logits are never in memory as a whole: their range is the plain one.
  void observe_head() {
    const Node& head = model_.graph.node(model_.graph.output());
    LayerStatistics statistics = statistics_of(head);
    statistics.layer = head.name;
    std::vector<std::int64_t> rows(static_cast<std::size_t>(executor_.tokens()));
    for (std::size_t i = 0; i < rows.size(); ++i) {
      rows[i] = static_cast<std::int64_t>(i);
    }
    ActivationRange& output = statistics.chosen.output;
    executor_.logits(rows, [&](std::size_t, std::size_t, std::span<const float> values) {
      const ActivationRange part = observe(values, Observer::MIN_MAX, 100.0);
      output.min = std::min(output.min, part.min);
      output.max = std::max(output.max, part.max);
    });
    if (config_.static_everywhere) {
      observed_.values[static_cast<std::size_t>(model_.graph.output())] = output;
    }
    config_.activations[head.name] = statistics.chosen;
    result_.statistics.push_back(std::move(statistics));
  }

  const Model& model_;
  QuantizationConfig& config_;
  const CalibrationOptions& options_;
  std::vector<bool> masked_;
  LinearLayers layers_;
  Executor executor_;
  const RunControl& control_;
  ValueId input_ = -1;
  std::string last_layer_;  // that has this input
  LayerStatistics input_statistics_;
  GraphActivations observed_;  // of the whole graph, if it is wanted
  CalibrationResult result_;
};

}  // namespace

bool needs_calibration(const Model& model, const QuantizationConfig& config) {
  const bool has_ranges = config.static_everywhere ? config.graph_activations.has_value() : !config.activations.empty();
  return (is_static(config) && !has_ranges) || (uses_inputs(config.method) && !model.stored_quantization);
}

CalibrationResult calibrate_activations(const Model& model, QuantizationConfig& config, const CalibrationData& data,
                                        const CalibrationOptions& options, const RunControl& control) {
  const bool is_share = options.percentile > 50.0 && options.percentile <= 100.0;  // false for NaN
  if (!is_share) {
    throw Error(ErrorCode::kInvalidArgument, "percentile", std::to_string(options.percentile) + " is not in (50, 100]");
  }
  config.activations.clear();
  return ActivationCalibrator(model, config, data, options, control).run();
}

bool can_use_calibration(const Model& model, const QuantizationConfig& config) {
  return needs_calibration(model, config) || weighs_inputs(model, config) || weighs_palettes(config);
}

CalibratedModel calibrate_model(const Model& model, const ModelOptions& model_options, const QuantizationConfig& config,
                                const CalibrationOptions& options, const std::filesystem::path& workspace,
                                const RunControl& control) {
  CalibratedModel result{.model = model, .config = config, .calibration = {}};
  const bool weighs = weighs_inputs(model, config) && !options.data.empty();
  const bool observes_palettes = weighs_palettes(config) && !options.data.empty();
  if (!needs_calibration(model, config) && !weighs && !observes_palettes) {
    return result;
  }
  const CalibrationData data = load_calibration_data(model, options, control);
  if (is_static(config) || observes_palettes) {
    result.calibration = calibrate_activations(model, result.config, data, options, control);
  }
  if (uses_inputs(config.method) || weighs) {
    CalibrationResult rounding = round_with_calibration(model, result.config, data, options, workspace, control);
    result.model = load_model(workspace, model_options);
    QuantizationConfig rounded = default_quantization_config(result.model);
    rounded.saturate_fp16 = config.saturate_fp16;
    rounded.activation_bits = config.activation_bits;
    rounded.static_everywhere = config.static_everywhere;
    rounded.graph_activations = std::move(result.config.graph_activations);
    result.config = std::move(rounded);
    if (result.calibration) {
      rounding.statistics = std::move(result.calibration->statistics);
      rounding.seconds += result.calibration->seconds;
    }
    result.calibration = std::move(rounding);
  }
  return result;
}

}  // namespace diffulex_edge
