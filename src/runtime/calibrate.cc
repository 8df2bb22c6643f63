// Static ranges of activations, from a float32 run.

#include "runtime/calibrate.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <optional>

#include "diffulex_edge/calibration.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/quantization_session.h"
#include "quant/arithmetic.h"
#include "quant/expert_name.h"
#include "quant/layer_formats.h"
#include "quant/planner.h"
#include "runtime/execution_session.h"
#include "runtime/expert_coverage.h"
#include "runtime/layer_statistics.h"
#include "runtime/linear_layers.h"
#include "runtime/observer.h"
#include "runtime/preflight.h"
#include "runtime/value_check.h"

namespace diffulex_edge {
namespace {

// Whether mode static needs ranges that nobody has.
bool needs_ranges(const Model& model, const QuantizationConfig& config, const TargetArithmetic& target,
                  const CalibrationFindings& known) {
  if (config.mode != QuantizationMode::STATIC) {
    return false;
  }
  if (is_static_everywhere(config, target)) {
    return !known.graph;
  }
  const auto ranges = with_stored_ranges(known, model).layers;
  const QuantizationPlan plan =
      quantize_model(model, config, made_up_findings(model, config, target, known), target).plan;
  return std::ranges::any_of(plan.layers, [&](const LayerPlan& layer) {
    return layer.arithmetic.activations == LayerArithmetic::Activations::kStatic && !ranges.contains(layer.layer);
  });
}

bool uses_inputs(RoundingMethod method) {
  return method == RoundingMethod::GPTQ || method == RoundingMethod::AWQ || method == RoundingMethod::AUTO;
}

bool weighs_inputs(const Model& model, const QuantizationConfig& config) {
  return config.method == RoundingMethod::MSE && format_row(config.dtype).is_grid() && !model.stored_quantization;
}

// The mean of x_j^2 for each column j, where each token counts relative to its size |x|^2.
std::vector<float> column_importance(const InputRows& x) {
  std::vector<double> sums(static_cast<std::size_t>(x.width()));
  for (std::int64_t token = 0; token < x.rows(); ++token) {
    const auto row = x.row(token);
    const double square =
        std::transform_reduce(row.begin(), row.end(), 0.0, std::plus<>(), [](double value) { return value * value; });
    for (std::size_t j = 0; square > 0.0 && j < row.size(); ++j) {
      sums[j] += static_cast<double>(row[j]) * static_cast<double>(row[j]) / square;
    }
  }
  std::vector<float> importance;
  for (const double sum : sums) {
    importance.push_back(static_cast<float>(sum / static_cast<double>(x.rows())));
  }
  return importance;
}

class ActivationCalibrator {
 public:
  ActivationCalibrator(const Model& model, const QuantizationConfig& config, const TargetArithmetic& target,
                       const CalibrationData& data, const CalibrationOptions& options, const RunControl& control)
      : model_(model),
        config_(config),
        target_(target),
        is_everywhere_(is_static_everywhere(config, target)),
        options_(options),
        is_module_(!data.runs.empty()),
        masked_(masked_tokens(data)),
        layers_(model, nullptr),
        graph_plan_(model.graph),
        session_(graph_plan_, model, layers_, control),
        control_(control) {
    session_.begin(make_batch(model, data));
    result_.sequences = static_cast<std::int64_t>(session_.batch().sequences());
    result_.tokens = session_.tokens();
    result_.masked_tokens = std::ranges::count(masked_, true);
    if (is_everywhere_) {
      observed_.values.resize(model.graph.nodes().size());
      session_.observe_scores();
    }
  }

  CalibrationResult run() {
    const auto start = std::chrono::steady_clock::now();
    const auto total = static_cast<std::int64_t>(model_.graph.nodes().size());
    if (is_everywhere_) {
      observe_inputs();
    }
    while (const Node* node = session_.next()) {
      if (node->op == Op::kLinear) {
        observe_layer(*node);
      } else {
        session_.step();
      }
      if (is_everywhere_) {
        observe_value(*node);
      }
      if (control_.on_progress) {
        control_.on_progress(
            {.stage = "calibration", .done_bytes = session_.last() + 1, .total_bytes = total, .in_bytes = false});
      }
    }
    if (graph_plan_.head() >= 0 && (quantizes_head() || is_everywhere_)) {
      observe_head();
    }
    if (is_everywhere_) {
      result_.findings.graph = std::move(observed_);
    }
    widen_missed_experts();
    result_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return std::move(result_);
  }

 private:
  // Token ids have no range.
  void observe_inputs() {
    for (std::size_t i = 0; i < model_.graph.nodes().size(); ++i) {
      const Node& node = model_.graph.nodes()[i];
      if (node.op == Op::kInput && node.dtype == DType::kF32) {
        observed_.values[i] = range_of_value(node, static_cast<ValueId>(i));
      }
    }
  }

  // Layers that share an input share its statistics.
  const LayerStatistics& statistics_of(const Node& node) {
    const ValueId id = node.inputs[0];
    const InputRows rows = session_.input_of(node);
    coverage_.add(node.name, rows.rows(), rows.width());
    if (has_palettes(config_) && coverage_.is_reached(node.name)) {
      auto& importance = result_.findings.input_importance;
      importance[node.name] = id == input_ ? importance.at(last_layer_) : column_importance(rows);
      last_layer_ = node.name;
    }
    if (id != input_) {
      const std::vector<bool> masked = session_.is_routed(id) ? select(masked_, session_.routed_tokens(id)) : masked_;
      input_statistics_ = measure_input(node.name, rows, masked, options_, control_);
      input_ = id;
    }
    return input_statistics_;
  }

  // The ranges of an expert that few tokens chose are those of all experts beside it.
  void widen_missed_experts() {
    std::map<std::string, LayerActivations> all;  // by group and role
    const auto key_of = [](const ExpertName& name) { return name.group + " " + name.role; };
    for (const auto& [layer, chosen] : result_.findings.layers) {
      if (const auto name = parse_expert_name(layer)) {
        widen(all[key_of(*name)], chosen);
      }
    }
    for (LayerStatistics& statistics : result_.statistics) {
      const auto name = parse_expert_name(statistics.layer);
      if (name && !coverage_.is_reached(statistics.layer)) {
        statistics.chosen = all.at(key_of(*name));
        result_.findings.layers[statistics.layer] = statistics.chosen;
      }
    }
    if (config_.mode == QuantizationMode::STATIC) {
      result_.warnings = coverage_.warnings("their static ranges are those of all experts of the layer");
    } else if (has_palettes(config_)) {
      result_.warnings = coverage_.warnings("their palettes are fitted to their weights alone");
    }
  }

  static void widen(LayerActivations& target, const LayerActivations& other) {
    const auto widen_range = [](ActivationRange& range, const ActivationRange& more) {
      range = {.min = std::min(range.min, more.min), .max = std::max(range.max, more.max)};
    };
    widen_range(target.input, other.input);
    widen_range(target.output, other.output);
  }

  void observe_layer(const Node& node) {
    LayerStatistics statistics = statistics_of(node);
    statistics.layer = node.name;
    session_.step();
    check_step(model_, node, session_, control_);
    statistics.chosen.output = observe_values(node.name, session_.value(session_.last()).data, options_);
    add_activations(node, statistics.chosen);
    result_.statistics.push_back(std::move(statistics));
  }

  // A module's layer that runs several times has ranges that cover them all.
  void add_activations(const Node& node, const LayerActivations& chosen) {
    const auto [found, is_new] = result_.findings.layers.emplace(node.name, chosen);
    if (!is_new) {
      widen(found->second, chosen);
    }
  }

  // What the last step made.
  void observe_value(const Node& node) {
    const ValueId value = session_.last();
    observed_.values[static_cast<std::size_t>(value)] = range_of_value(node, value);
    if (const std::optional<ActivationRange>& scores = session_.scores(); scores && node.op == Op::kAttention) {
      observed_.scores[value] = *scores;
    }
  }

  ActivationRange range_of_value(const Node& node, ValueId value) const {
    const Op source = node.op == Op::kReshape ? model_.graph.node(node.inputs[0]).op : node.op;
    if (node.op == Op::kReshape && source != Op::kConstant && source != Op::kWeight) {
      return observed_.values[static_cast<std::size_t>(node.inputs[0])];
    }
    CalibrationOptions options = options_;
    if (target_.static_bits > 8) {
      options.observer = Observer::MIN_MAX;
    } else if (node.op == Op::kLinear) {
      return result_.findings.layers.at(node.name).output;  // observed with the layer
    }
    const std::string where = node.name.empty() ? std::string(to_string(node.op)) : node.name;
    const std::vector<float>& values = session_.value(value).data;
    return is_module_ ? observe_values(where, without_infinity(values), options)
                      : observe_values(where, values, options);
  }

  // Masks of modules may be infinite.
  static std::vector<float> without_infinity(std::vector<float> values) {
    constexpr float kMost = std::numeric_limits<float>::max();
    for (float& value : values) {
      value = std::isinf(value) ? std::copysign(kMost, value) : value;
    }
    return values;
  }

  bool quantizes_head() const {
    const Node& head = model_.graph.node(graph_plan_.head());
    const CalibrationFindings findings = made_up_findings(model_, config_, target_);
    const QuantizationPlan plan = quantize_model(model_, config_, findings, target_).plan;
    return plan.at(head.name, model_.graph.tensor(head.inputs[1])).format.is_quantized();
  }

  // Logits are never in memory as a whole: their range is the plain one.
  void observe_head() {
    const Node& head = model_.graph.node(graph_plan_.head());
    LayerStatistics statistics = statistics_of(head);
    statistics.layer = head.name;
    std::vector<std::int64_t> rows(static_cast<std::size_t>(session_.tokens()));
    for (std::size_t i = 0; i < rows.size(); ++i) {
      rows[i] = static_cast<std::int64_t>(i);
    }
    ActivationRange& output = statistics.chosen.output;
    session_.logits(rows, [&](std::size_t, std::size_t, std::span<const float> values) {
      check_logits(model_, values);
      const ActivationRange part = observe(values, Observer::MIN_MAX, 100.0);
      output.min = std::min(output.min, part.min);
      output.max = std::max(output.max, part.max);
    });
    if (is_everywhere_) {
      observed_.values[static_cast<std::size_t>(model_.graph.output())] = output;
    }
    add_activations(head, statistics.chosen);
    result_.statistics.push_back(std::move(statistics));
  }

  const Model& model_;
  const QuantizationConfig& config_;
  const TargetArithmetic& target_;
  bool is_everywhere_;
  const CalibrationOptions& options_;
  bool is_module_;
  std::vector<bool> masked_;
  LinearLayers layers_;
  ExecutionPlan graph_plan_;
  ExecutionSession session_;
  const RunControl& control_;
  ValueId input_ = -1;
  std::string last_layer_;  // that has this input
  LayerStatistics input_statistics_;
  GraphActivations observed_;  // of the whole graph, if it is wanted
  ExpertCoverage coverage_;
  CalibrationResult result_;
};

}  // namespace

bool needs_calibration(const Model& model, const QuantizationConfig& config, const TargetArithmetic& target,
                       const CalibrationFindings& known) {
  return needs_ranges(model, config, target, known) || (uses_inputs(config.method) && !model.stored_quantization);
}

CalibrationResult calibrate_activations(const Model& model, const QuantizationConfig& config,
                                        const TargetArithmetic& target, const CalibrationData& data,
                                        const CalibrationOptions& options, const RunControl& control) {
  check_percentile(options.percentile);
  return ActivationCalibrator(model, config, target, data, options, control).run();
}

bool can_use_calibration(const Model& model, const QuantizationConfig& config, const TargetArithmetic& target,
                         const CalibrationFindings& known) {
  return needs_calibration(model, config, target, known) || weighs_inputs(model, config) || has_palettes(config);
}

namespace {

Model load_rounded(const Model& model, const ModelOptions& options, const std::filesystem::path& folder) {
  if (!model.path.empty()) {
    return load_model(folder, options);
  }
  Model rounded = model;
  rounded.checkpoint = std::make_shared<const Checkpoint>(folder);
  return rounded;
}

void check_module_options(const CalibrationData& data, const CalibrationOptions& options) {
  if (!data.runs.empty() && options.mask_weight != 1.0) {
    throw Error(ErrorCode::kInvalidArgument, "mask weight", "a module's inputs have no masked tokens", "leave it out");
  }
}

CalibratedModel calibrate_with(const CalibrationData& data, const Model& model, const ModelOptions& model_options,
                               const QuantizationRequest& request,
                               const std::function<std::filesystem::path()>& workspace, const RunControl& control) {
  const QuantizationConfig& config = request.config;
  CalibratedModel result{.rounded = {}, .findings = request.known, .calibration = {}};
  check_module_options(data, request.calibration);
  if (needs_ranges(model, config, request.target, request.known) || has_palettes(config)) {
    result.calibration = calibrate_activations(model, config, request.target, data, request.calibration, control);
    result.findings = result.calibration->findings;
    for (const auto& [layer, ranges] : with_stored_ranges(request.known, model).layers) {
      result.findings.layers[layer] = ranges;  // what was known is not found again
    }
  }
  if ((uses_inputs(config.method) && !model.stored_quantization) || weighs_inputs(model, config)) {
    const std::filesystem::path folder = workspace();
    const QuantizationPlan plan = quantize_model(model, config, result.findings, request.target).plan;
    CalibrationResult rounding = round_with_calibration(model, plan, data, request.calibration, folder, control);
    result.rounded = load_rounded(model, model_options, folder);
    if (result.calibration) {
      rounding.statistics = std::move(result.calibration->statistics);
      rounding.seconds += result.calibration->seconds;
      rounding.findings = std::move(result.calibration->findings);
      rounding.warnings.insert(rounding.warnings.begin(), result.calibration->warnings.begin(),
                               result.calibration->warnings.end());
    }
    result.calibration = std::move(rounding);
  }
  return result;
}

}  // namespace

CalibratedModel calibrate_model(const Model& model, const ModelOptions& model_options,
                                const QuantizationRequest& request,
                                const std::function<std::filesystem::path()>& workspace, const RunControl& control) {
  const auto uses = request.has_data() ? can_use_calibration : needs_calibration;
  if (!uses(model, request.config, request.target, request.known)) {
    return {.rounded = {}, .findings = request.known, .calibration = {}};
  }
  if (!request.has_data()) {
    throw Error(ErrorCode::kInvalidArgument, "calibration", "has no data", "give at least one input");
  }
  check_before_calibration(model, request);
  if (request.data) {
    return calibrate_with(*request.data, model, model_options, request, workspace, control);
  }
  const CalibrationData data = load_calibration_data(model, request.calibration, control);
  return calibrate_with(data, model, model_options, request, workspace, control);
}

}  // namespace diffulex_edge
