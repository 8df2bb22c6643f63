// Rounds a model's weights layer by layer, each with what the layers before it, already rounded, let it see.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <set>

#include "diffulex_edge/calibration.h"
#include "diffulex_edge/error.h"
#include "quant/quantized_checkpoint.h"
#include "quant/rounding.h"
#include "quant/weight_decoder.h"
#include "runtime/executor.h"
#include "runtime/input_statistics.h"

namespace diffulex_edge {
namespace {

// One weight's rounding, kept until its layer is executed.
struct Rounding {
  RoundedWeight weight;
  LayerRounding report;
};

class LayerwiseRounder {
 public:
  LayerwiseRounder(const Model& model, const QuantizationConfig& config, const CalibrationData& data,
                   const CalibrationOptions& options, const std::filesystem::path& target, const RunControl& control)
      : model_(model),
        config_(config),
        plan_(plan_of(model, config)),
        control_(control),
        layers_(model, nullptr),
        executor_(model, data.inputs, layers_, quiet_) {
    quiet_ = control;
    quiet_.on_progress = nullptr;
    weigh_tokens(data, options);
    find_consumers();
    const bool scales = config.method == RoundingMethod::AWQ || config.method == RoundingMethod::AUTO;
    for (std::size_t i = 0; scales && i < model.graph.nodes().size(); ++i) {
      if (is_scalable(static_cast<ValueId>(i))) {
        scalable_.insert(norm_tensor(model.graph.nodes()[i]));
      }
    }
    writer_ = std::make_unique<QuantizedCheckpointWriter>(model, plan_, target, scalable_);
    result_.sequences = static_cast<std::int64_t>(data.inputs.size());
    result_.tokens = executor_.tokens();
    for (const auto& sequence : data.masked) {
      result_.masked_tokens += std::ranges::count(sequence, true);
    }
  }

  CalibrationResult run() {
    const auto start = std::chrono::steady_clock::now();
    const auto total = static_cast<std::int64_t>(model_.graph.nodes().size());
    while (const Node* node = executor_.next()) {
      const auto id = static_cast<ValueId>(node - model_.graph.nodes().data());
      if (node->op == Op::kRmsNorm && scalable_.contains(norm_tensor(*node))) {
        scale_group(id);
      } else if (node->op == Op::kLinear) {
        execute_linear(*node);
      } else {
        executor_.step();
      }
      if (control_.on_progress) {
        control_.on_progress({.stage = "rounding", .done_bytes = executor_.last() + 1, .total_bytes = total});
      }
    }
    const Node& head = model_.graph.node(model_.graph.output());
    if (is_rounded(head)) {
      write(head, take_rounding(head));
    }
    writer_->finish(config_, control_);
    result_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return std::move(result_);
  }

 private:
  // Embeddings have no input to learn from: the best method without one.
  static QuantizationPlan plan_of(const Model& model, const QuantizationConfig& config) {
    QuantizationPlan plan = quantize_model(model, config).plan;
    for (LayerPlan& layer : plan.layers) {
      if (layer.role == LayerRole::kEmbedding && layer.format.is_quantized()) {
        layer.method = RoundingMethod::MSE;
      }
    }
    return plan;
  }

  void weigh_tokens(const CalibrationData& data, const CalibrationOptions& options) {
    if (options.mask_weight == 1.0) {
      return;
    }
    if (!(options.mask_weight > 0.0) || !std::isfinite(options.mask_weight)) {
      throw Error(ErrorCode::kInvalidArgument, "mask weight",
                  std::to_string(options.mask_weight) + " is not a positive number");
    }
    for (const auto& sequence : data.counts) {
      for (const bool counts : sequence) {
        token_weights_.push_back(counts ? static_cast<float>(options.mask_weight) : 1.0F);
      }
    }
  }

  static const std::string& tensor_of(const Graph& graph, const Node& node) {
    return std::get<WeightAttributes>(graph.node(node.inputs[1]).attributes).tensor;
  }
  const std::string& norm_tensor(const Node& node) const { return tensor_of(model_.graph, node); }
  const LayerPlan& plan_of(const Node& node) const { return plan_.at(node.name, tensor_of(model_.graph, node)); }

  bool is_rounded(const Node& node) const {
    const LayerPlan& plan = plan_of(node);
    return plan.format.is_quantized() && !plan.source.is_quantized();
  }

  void find_consumers() {
    for (const Node& node : model_.graph.nodes()) {
      for (const ValueId input : node.inputs) {
        consumers_[input].push_back(&node);
      }
    }
  }

  // A norm whose output goes into linear layers that are rounded, and nowhere else: 1 / s can go into its weight.
  bool is_scalable(ValueId id) const {
    const auto found = consumers_.find(id);
    return model_.graph.node(id).op == Op::kRmsNorm && found != consumers_.end() &&
           std::ranges::all_of(found->second, [&](const Node* node) {
             return node->op == Op::kLinear && node->inputs[0] == id && is_rounded(*node);
           });
  }

  std::vector<float> load_weight(const Node& node) const { return layers_.load_vector(tensor_of(model_.graph, node)); }

  Rounding round(const Node& node, std::span<const float> weight, const InputStatistics& statistics) const {
    const LayerPlan& plan = plan_of(node);
    Rounding rounding;
    rounding.report.layer = node.name;
    if (config_.method == RoundingMethod::AUTO) {
      AutoRounding best = auto_round(weight, plan.rows, plan.columns, plan.format, statistics, quiet_);
      rounding.weight = std::move(best.rounded);
      rounding.report.error = best.error;
      rounding.report.nearest_error = best.nearest_error;
    } else {
      if (config_.method == RoundingMethod::GPTQ) {
        GptqOptions options;
        options.act_order = true;
        options.static_groups = true;
        rounding.weight = round_gptq(weight, plan.rows, plan.columns, plan.format, statistics, options, quiet_);
      } else {
        rounding.weight = round_weight(weight, plan.rows, plan.columns, plan.format, RoundingMethod::MSE,
                                       input_importance(statistics), quiet_);
        rounding.weight.method = RoundingMethod::AWQ;
      }
      rounding.report.error =
          output_error(weight, rounding.weight, plan.rows, plan.columns, plan.format, statistics, quiet_);
      const RoundedWeight nearest =
          round_weight(weight, plan.rows, plan.columns, plan.format, RoundingMethod::RTN, {}, quiet_);
      rounding.report.nearest_error =
          output_error(weight, nearest, plan.rows, plan.columns, plan.format, statistics, quiet_);
    }
    rounding.report.method = rounding.weight.method;
    return rounding;
  }

  // Executes a norm and rounds the layers that it feeds, scaled by AWQ if that lowers the sum of their errors.
  void scale_group(ValueId id) {
    const Node& norm = model_.graph.node(id);
    executor_.step();
    const std::vector<const Node*>& group = consumers_.at(id);
    const InputStatistics& statistics = statistics_of(id);
    std::vector<std::vector<float>> weights;
    std::vector<AwqWeight> candidates;
    for (const Node* node : group) {
      weights.push_back(load_weight(*node));
      candidates.push_back({.weight = weights.back(), .rows = plan_of(*node).rows, .format = plan_of(*node).format});
    }
    AwqOptions options;
    options.method = RoundingMethod::MSE;
    const AwqScales scales = search_awq_scales(candidates, statistics.columns, statistics, options, quiet_);
    std::vector<float> norm_weight = layers_.load_vector(norm_tensor(norm));

    const auto round_all = [&](const InputStatistics& seen) {
      std::vector<Rounding> roundings;
      for (std::size_t i = 0; i < group.size(); ++i) {
        roundings.push_back(round(*group[i], weights[i], seen));
      }
      return roundings;
    };
    const auto total_error = [](const std::vector<Rounding>& roundings) {
      double error = 0.0;
      for (const Rounding& rounding : roundings) {
        error += rounding.report.error;
      }
      return error;
    };
    std::vector<Rounding> best = round_all(statistics);
    bool scaled = false;
    if (scales.exponent > 0.0) {
      for (std::size_t i = 0; i < group.size(); ++i) {
        scale_columns(weights[i], plan_of(*group[i]).rows, scales.scales);
      }
      std::vector<Rounding> candidate = round_all(scaled_statistics(statistics, scales.scales));
      scaled = total_error(candidate) < total_error(best);
      if (scaled) {
        for (std::size_t i = 0; i < group.size(); ++i) {
          // Against rounding the weight as it was.
          candidate[i].report.nearest_error = best[i].report.nearest_error;
          candidate[i].report.awq_scaled = true;
        }
        best = std::move(candidate);
      }
    }
    if (scaled) {
      std::vector<float> factors;
      for (std::size_t i = 0; i < norm_weight.size(); ++i) {
        norm_weight[i] /= scales.scales[i];
        factors.push_back(1.0F / scales.scales[i]);
      }
      executor_.scale_columns(id, factors);
    }
    writer_->write_floats(norm_tensor(norm), norm_weight);
    for (std::size_t i = 0; i < group.size(); ++i) {
      ready_[group[i]->name] = std::move(best[i]);
    }
    statistics_id_ = -1;  // the input may have changed
  }

  const InputStatistics& statistics_of(ValueId id) {
    if (id != statistics_id_) {
      const Activations& x = executor_.value(id);
      if (!std::ranges::all_of(x.data, [](float value) { return std::isfinite(value); })) {
        throw Error(ErrorCode::kBadFile, model_.path.string(), "in calibration an activation is not finite",
                    "the model's weights are broken");
      }
      statistics_ = input_statistics(x.data, x.width, token_weights_, quiet_);
      statistics_id_ = id;
    }
    return statistics_;
  }

  Rounding take_rounding(const Node& node) {
    if (const auto found = ready_.find(node.name); found != ready_.end()) {
      Rounding rounding = std::move(found->second);
      ready_.erase(found);
      return rounding;
    }
    return round(node, load_weight(node), statistics_of(node.inputs[0]));
  }

  void write(const Node& node, Rounding rounding) {
    writer_->write_rounded(tensor_of(model_.graph, node), rounding.weight);
    if (rounding.weight.fell_back) {
      result_.warnings.push_back(node.name + ": its Hessian can't be factorized, GPTQ fell back to " +
                                 std::string(to_string(rounding.weight.method)));
    }
    result_.rounding.push_back(std::move(rounding.report));
  }

  void execute_linear(const Node& node) {
    if (!is_rounded(node)) {
      executor_.step();
      return;
    }
    const LayerPlan& plan = plan_of(node);
    Rounding rounding = take_rounding(node);
    std::vector<float> decoded(static_cast<std::size_t>(plan.parameters()));
    decode_rows(plan.format, rounding.weight.values, rounding.weight.scales, plan.rows, plan.columns, decoded);
    const std::string& tensor = tensor_of(model_.graph, node);
    layers_.replace_weight(tensor, std::move(decoded));
    executor_.step();
    layers_.restore_weight(tensor);
    write(node, std::move(rounding));
  }

  const Model& model_;
  QuantizationConfig config_;
  QuantizationPlan plan_;
  const RunControl& control_;
  RunControl quiet_;  // of parts of the work: progress is counted in layers
  LinearLayers layers_;
  Executor executor_;
  std::vector<float> token_weights_;
  std::map<ValueId, std::vector<const Node*>> consumers_;
  std::set<std::string> scalable_;  // norms whose weight may change
  std::unique_ptr<QuantizedCheckpointWriter> writer_;
  ValueId statistics_id_ = -1;
  InputStatistics statistics_;
  std::map<std::string, Rounding> ready_;
  CalibrationResult result_;
};

}  // namespace

CalibrationResult round_with_calibration(const Model& model, const QuantizationConfig& config,
                                         const CalibrationData& data, const CalibrationOptions& options,
                                         const std::filesystem::path& target, const RunControl& control) {
  return LayerwiseRounder(model, config, data, options, target, control).run();
}

}  // namespace diffulex_edge
