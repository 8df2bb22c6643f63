// Rounds a model's weights layer by layer, each with what the layers before it, already rounded, let it see.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <set>

#include "diffulex_edge/calibration.h"
#include "diffulex_edge/error.h"
#include "quant/quantized_checkpoint.h"
#include "quant/rounding.h"
#include "quant/weight_decoder.h"
#include "runtime/calibrate.h"
#include "runtime/execution_session.h"
#include "runtime/expert_coverage.h"
#include "runtime/input_statistics.h"
#include "runtime/layer_input.h"
#include "runtime/layer_statistics.h"
#include "runtime/linear_layers.h"
#include "runtime/preflight.h"
#include "runtime/value_check.h"

namespace diffulex_edge {
namespace {

constexpr std::size_t kHoldOut = 4;

// One weight's rounding, kept until its layer is executed.
struct Rounding {
  RoundedWeight weight;
  LayerRounding report;
};

class LayerwiseRounder {
 public:
  LayerwiseRounder(const Model& model, const QuantizationPlan& plan, const CalibrationData& data,
                   const CalibrationOptions& options, const std::filesystem::path& folder, const RunControl& control)
      : model_(model),
        plan_(with_rounded_embedding(plan)),
        options_(options),
        masked_(masked_tokens(data)),
        control_(control),
        layers_(model, nullptr),
        graph_plan_(model.graph),
        session_(graph_plan_, model, layers_, quiet_),
        is_auto_(plan.config.method == RoundingMethod::AUTO),
        reference_layers_(model, nullptr) {
    quiet_ = control;
    quiet_.on_progress = nullptr;
    session_.begin(make_batch(model, data));
    check_mask_weight(options.mask_weight);
    if (options.mask_weight != 1.0) {
      counts_ = data.counts;
    }
    if (is_auto_) {
      reference_ = std::make_unique<ExecutionSession>(graph_plan_, model, reference_layers_, quiet_);
      reference_->begin(make_batch(model, data));
    }
    for (const LayerPlan& layer : plan_.layers) {
      plans_.emplace(std::pair(layer.layer, layer.tensor), &layer);
    }
    find_consumers();
    const bool scales = is_auto_ || plan.config.method == RoundingMethod::AWQ;
    for (std::size_t i = 0; scales && i < model.graph.nodes().size(); ++i) {
      if (is_scalable(static_cast<ValueId>(i))) {
        scalable_.insert(tensor_of(model.graph.nodes()[i]));
      }
    }
    writer_ = std::make_unique<QuantizedCheckpointWriter>(model, plan_, folder, scalable_);
    result_.sequences = static_cast<std::int64_t>(session_.batch().sequences());
    result_.tokens = session_.tokens();
    result_.masked_tokens = std::ranges::count(masked_, true);
  }

  CalibrationResult run() {
    const auto start = std::chrono::steady_clock::now();
    const auto total = static_cast<std::int64_t>(model_.graph.nodes().size());
    while (const Node* node = session_.next()) {
      const auto id = static_cast<ValueId>(node - model_.graph.nodes().data());
      if (is_scaled(*node)) {
        scale_group(id);
      } else if (node->op == Op::kLinear) {
        execute_linear(*node);
      } else {
        step();
      }
      if (control_.on_progress) {
        control_.on_progress(
            {.stage = "rounding", .done_bytes = session_.last() + 1, .total_bytes = total, .in_bytes = false});
      }
    }
    if (graph_plan_.head() >= 0) {
      const Node& head = model_.graph.node(graph_plan_.head());
      if (is_rounded(head) && !written_.contains(tensor_of(head))) {
        write(head, take_rounding(head));
      }
    }
    writer_->finish(control_);
    const std::vector<std::string> missed =
        coverage_.warnings("their weights are rounded by mse, from themselves alone");
    result_.warnings.insert(result_.warnings.end(), missed.begin(), missed.end());
    result_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return std::move(result_);
  }

 private:
  // Embeddings have no input to learn from: the best method without one.
  static QuantizationPlan with_rounded_embedding(QuantizationPlan plan) {
    for (LayerPlan& layer : plan.layers) {
      if (layer.role == LayerRole::kEmbedding && layer.format.is_quantized()) {
        layer.method = RoundingMethod::MSE;
      }
    }
    return plan;
  }

  // Of the rows of a value. AUTO judges by every fourth sequence, which its candidates are not made with: the more
  // freely a method fits the tokens it sees, the less its own error says. A single sequence judges what it made.
  TokenSplit split_of(ValueId id, std::int64_t rows) const {
    const Batch& batch = session_.batch();
    const bool holds_out = is_auto_ && batch.sequences() > 1 && !graph_plan_.is_shared(id);
    TokenSplit split;
    if (is_auto_ && !holds_out) {
      hold_out_all(split, rows);
    }
    if (!holds_out && counts_.empty()) {
      return split;
    }
    const std::vector<std::int64_t> begins = graph_plan_.begins(id, batch);
    for (std::size_t i = 0; i < batch.sequences(); ++i) {
      const std::int64_t count = (begins[i + 1] - begins[i]) * rows / begins.back();
      const bool held_out = holds_out && i % kHoldOut == kHoldOut - 1;
      for (std::int64_t row = 0; row < count; ++row) {
        if (held_out) {
          split.held_out.push_back(static_cast<std::int64_t>(split.weights.size()));
        }
        split.weights.push_back(held_out ? 0.0F : weight_of(i, row * batch.length(i) / count));
      }
    }
    return split;
  }

  // Of the rows of some of the batch's tokens. Where one of the two parts would be empty, all tokens are in both.
  TokenSplit split_of(const std::vector<std::int64_t>& tokens) const {
    const Batch& batch = session_.batch();
    TokenSplit split;
    for (const std::int64_t token : tokens) {
      const auto after = std::ranges::upper_bound(batch.offsets, token);
      const auto sequence = static_cast<std::size_t>(after - batch.offsets.begin()) - 1;
      const bool held_out = is_auto_ && sequence % kHoldOut == kHoldOut - 1;
      if (held_out) {
        split.held_out.push_back(static_cast<std::int64_t>(split.weights.size()));
      }
      split.weights.push_back(held_out ? 0.0F : weight_of(sequence, token - batch.offsets[sequence]));
    }
    if (is_auto_ && (split.held_out.empty() || split.held_out.size() == tokens.size())) {
      split.weights.assign(tokens.size(), 1.0F);
      hold_out_all(split, std::ssize(tokens));
    }
    return split;
  }

  static void hold_out_all(TokenSplit& split, std::int64_t rows) {
    split.held_out.resize(static_cast<std::size_t>(rows));
    std::iota(split.held_out.begin(), split.held_out.end(), std::int64_t{0});
  }

  float weight_of(std::size_t sequence, std::int64_t token) const {
    const bool counts = !counts_.empty() && counts_[sequence][static_cast<std::size_t>(token)];
    return counts ? static_cast<float>(options_.mask_weight) : 1.0F;
  }

  // Of a norm or a linear layer.
  const std::string& tensor_of(const Node& node) const { return model_.graph.tensor(node.inputs[1]); }
  const LayerPlan& plan_of(const Node& node) const { return *plans_.at({node.name, tensor_of(node)}); }

  bool is_rounded(const Node& node) const {
    const LayerPlan& plan = plan_of(node);
    return plan.format.is_quantized() && !plan.source.is_quantized();
  }

  void find_consumers() {
    for (const Node& node : model_.graph.nodes()) {
      for (const ValueId input : node.inputs) {
        consumers_[input].push_back(&node);
        if (model_.graph.node(input).op == Op::kWeight) {
          ++uses_[model_.graph.tensor(input)];
        }
      }
    }
  }

  // A norm whose output goes into linear layers that are rounded, and nowhere else: 1 / s can go into its weight, and s
  // into theirs, where nothing else uses these tensors.
  bool is_scalable(ValueId id) const {
    const auto found = consumers_.find(id);
    const Node& norm = model_.graph.node(id);
    return norm.op == Op::kRmsNorm && id != model_.graph.output() && found != consumers_.end() && is_used_once(norm) &&
           !options_.fixed_tensors.contains(tensor_of(norm)) &&
           std::ranges::all_of(found->second, [&](const Node* node) {
             return node->op == Op::kLinear && node->inputs[0] == id && is_rounded(*node) && is_used_once(*node);
           });
  }

  bool is_scaled(const Node& node) const {
    return node.op == Op::kRmsNorm && model_.graph.node(node.inputs[1]).op == Op::kWeight &&
           scalable_.contains(tensor_of(node));
  }

  bool is_used_once(const Node& node) const {
    return model_.graph.node(node.inputs[1]).op == Op::kWeight && uses_.at(tensor_of(node)) == 1;
  }

  std::vector<float> load_weight(const Node& node) const { return layers_.load_vector(tensor_of(node)); }

  void step() {
    const Node& node = *session_.next();
    session_.step();
    if (node.op == Op::kLinear) {
      check_step(model_, node, session_, quiet_);
    }
    if (reference_) {
      reference_->step();
    }
  }

  // `weight` is the layer's own; `scales` multiply its columns before it is rounded, or are empty.
  Rounding round(const Node& node, std::span<const float> weight, const LayerInput& input,
                 std::span<const float> scales) const {
    const LayerPlan& plan = plan_of(node);
    Rounding rounding;
    rounding.report.layer = node.name;
    std::vector<float> scaled(weight.begin(), weight.end());
    std::vector<float> corrected = is_auto_ ? input.correct(weight, plan.rows) : std::vector<float>();
    InputStatistics statistics = input.statistics();
    if (!scales.empty()) {
      scale_columns(scaled, plan.rows, scales);
      scale_columns(corrected, corrected.empty() ? 0 : plan.rows, scales);
      statistics = scaled_statistics(statistics, scales);
    }
    if (is_auto_) {
      AutoRounding best =
          auto_round(scaled, plan.rows, plan.columns, plan.format, statistics,
                     {.judge = input.judge(weight, plan.rows, plan.format, scales), .corrected = corrected}, quiet_);
      rounding.weight = std::move(best.rounded);
      rounding.report.error = best.error;
      rounding.report.nearest_error = best.nearest_error;
    } else {
      rounding.weight = round_by_method(scaled, plan, statistics);
      const auto error_of = [&](const RoundedWeight& rounded) {
        return output_error(scaled, rounded, plan.rows, plan.columns, plan.format, statistics, quiet_);
      };
      rounding.report.error = error_of(rounding.weight);
      rounding.report.nearest_error =
          error_of(round_weight(scaled, plan.rows, plan.columns, plan.format, RoundingMethod::RTN, {}, quiet_));
    }
    rounding.report.method = rounding.weight.method;
    rounding.report.awq_scaled = !scales.empty();
    return rounding;
  }

  RoundedWeight round_by_method(std::span<const float> weight, const LayerPlan& plan,
                                const InputStatistics& statistics) const {
    if (plan_.config.method == RoundingMethod::GPTQ) {
      return round_gptq(weight, plan.rows, plan.columns, plan.format, statistics,
                        {.act_order = true, .static_groups = true}, quiet_);
    }
    RoundedWeight rounded = round_weight(weight, plan.rows, plan.columns, plan.format, RoundingMethod::MSE,
                                         input_importance(statistics), quiet_);
    rounded.method = plan_.config.method;  // MSE, or AWQ
    return rounded;
  }

  // Executes a norm and rounds the layers that it feeds, scaled by AWQ if that lowers the sum of their errors.
  void scale_group(ValueId id) {
    const Node& norm = model_.graph.node(id);
    step();
    const std::vector<const Node*>& group = consumers_.at(id);
    const LayerInput& input = input_of(id);
    std::vector<std::vector<float>> weights;
    std::vector<AwqWeight> candidates;
    for (const Node* node : group) {
      weights.push_back(load_weight(*node));
      candidates.push_back({.weight = weights.back(), .rows = plan_of(*node).rows, .format = plan_of(*node).format});
    }
    const std::int64_t columns = input.statistics().columns;
    const AwqScales scales =
        search_awq_scales(candidates, columns, input.statistics(), {.method = RoundingMethod::MSE}, quiet_);
    const auto round_all = [&](std::span<const float> factors) {
      std::vector<Rounding> roundings;
      for (std::size_t i = 0; i < group.size(); ++i) {
        roundings.push_back(round(*group[i], weights[i], input, factors));
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
    std::vector<float> norm_weight = layers_.load_vector(tensor_of(norm));
    std::vector<Rounding> best = round_all({});
    if (scales.exponent > 0.0) {
      std::vector<Rounding> candidate = round_all(scales.scales);
      if (total_error(candidate) < total_error(best)) {
        for (std::size_t i = 0; i < group.size(); ++i) {
          // Against rounding the weight as it was.
          candidate[i].report.nearest_error = best[i].report.nearest_error;
        }
        best = std::move(candidate);
        std::vector<float> factors;
        for (std::size_t i = 0; i < norm_weight.size(); ++i) {
          norm_weight[i] /= scales.scales[i];
          factors.push_back(1.0F / scales.scales[i]);
        }
        session_.scale_columns(id, factors);
      }
    }
    writer_->write_floats(tensor_of(norm), norm_weight);
    for (std::size_t i = 0; i < group.size(); ++i) {
      ready_[tensor_of(*group[i])] = std::move(best[i]);
    }
    input_.reset();
    input_id_ = -1;
  }

  const LayerInput& input_of(ValueId id) {
    if (id == input_id_) {
      return *input_;
    }
    input_.reset();  // before the next one takes its memory
    const std::int64_t width = model_.graph.shape(id).back().value;
    if (session_.is_routed(id)) {
      const std::vector<std::int64_t> tokens = common_tokens(id);
      const std::vector<float> seen = rows_of(session_, id, tokens);
      const std::vector<float> truth = reference_ ? rows_of(*reference_, id, tokens) : std::vector<float>();
      set_input(id, {width, seen}, reference_ ? std::optional(InputRows(width, truth)) : std::nullopt, split_of(tokens),
                select(masked_, tokens));
    } else {
      const InputRows seen(width, session_.value(id).data);
      set_input(id, seen, reference_ ? std::optional(InputRows(width, reference_->value(id).data)) : std::nullopt,
                split_of(id, seen.rows()), masked_);
    }
    return *input_;
  }

  void set_input(ValueId id, const InputRows& seen, const std::optional<InputRows>& truth, const TokenSplit& split,
                 const std::vector<bool>& masked) {
    input_ = std::make_unique<LayerInput>(seen, truth, split, quiet_);
    input_id_ = id;
    statistics_ = measure_input("calibration", seen, masked, options_, quiet_);
  }

  // The tokens that chose an expert here, and in the float32 model, where that runs beside this one.
  std::vector<std::int64_t> common_tokens(ValueId id) const {
    std::vector<std::int64_t> tokens = session_.routed_tokens(id);
    if (reference_) {
      const std::vector<std::int64_t> others = reference_->routed_tokens(id);
      std::erase_if(tokens, [&](std::int64_t token) { return !std::ranges::binary_search(others, token); });
    }
    return tokens;
  }

  // A routed value's rows of some of the tokens that it has.
  static std::vector<float> rows_of(const ExecutionSession& session, ValueId id,
                                    const std::vector<std::int64_t>& tokens) {
    const std::vector<std::int64_t> all = session.routed_tokens(id);
    std::vector<float> rows;
    for (const std::int64_t token : tokens) {
      const auto row = session.value(id).row(std::ranges::lower_bound(all, token) - all.begin());
      rows.insert(rows.end(), row.begin(), row.end());
    }
    return rows;
  }

  Rounding take_rounding(const Node& node) {
    if (const auto found = ready_.find(tensor_of(node)); found != ready_.end()) {
      Rounding rounding = std::move(found->second);
      ready_.erase(found);
      return rounding;
    }
    const std::vector<float> weight = load_weight(node);
    const ValueId input = node.inputs[0];
    if (session_.is_routed(input)) {
      const std::vector<std::int64_t> tokens = common_tokens(input);
      coverage_.add(node.name, std::ssize(tokens), plan_of(node).columns);
      if (!coverage_.is_reached(node.name)) {
        return round_unseen(node, weight, tokens);
      }
    }
    return round(node, weight, input_of(input), {});
  }

  // From the weight alone, for an expert of which calibration says too little.
  Rounding round_unseen(const Node& node, std::span<const float> weight, const std::vector<std::int64_t>& tokens) {
    const LayerPlan& plan = plan_of(node);
    Rounding rounding;
    rounding.weight = round_weight(weight, plan.rows, plan.columns, plan.format, RoundingMethod::MSE, {}, quiet_);
    rounding.report.layer = node.name;
    rounding.report.method = RoundingMethod::MSE;
    const std::vector<float> seen = rows_of(session_, node.inputs[0], tokens);
    statistics_ = measure_input("calibration", {plan.columns, seen}, select(masked_, tokens), options_, quiet_);
    return rounding;
  }

  void write(const Node& node, Rounding rounding) {
    writer_->write_rounded(tensor_of(node), rounding.weight);
    written_.insert(tensor_of(node));
    if (rounding.weight.fell_back) {
      result_.warnings.push_back(node.name + ": its Hessian can't be factorized, GPTQ fell back to " +
                                 std::string(to_string(rounding.weight.method)));
    }
    result_.rounding.push_back(std::move(rounding.report));
    result_.statistics.push_back(statistics_);
    result_.statistics.back().layer = node.name;
  }

  void execute_linear(const Node& node) {
    const std::string& tensor = tensor_of(node);
    if (!is_rounded(node) || written_.contains(tensor)) {
      step();
      return;
    }
    const LayerPlan& plan = plan_of(node);
    Rounding rounding = take_rounding(node);
    std::vector<float> decoded(static_cast<std::size_t>(plan.parameters()));
    decode_rows(plan.format, rounding.weight.values, rounding.weight.scales, plan.rows, plan.columns, decoded);
    layers_.replace_weight(tensor, std::move(decoded));
    step();
    if (uses_.at(tensor) == 1) {
      layers_.restore_weight(tensor);
    }
    write(node, std::move(rounding));
  }

  const Model& model_;
  QuantizationPlan plan_;
  std::map<std::pair<std::string, std::string>, const LayerPlan*> plans_;  // by layer and tensor
  CalibrationOptions options_;
  std::vector<bool> masked_;
  const RunControl& control_;
  RunControl quiet_;  // of parts of the work: progress is counted in layers
  LinearLayers layers_;
  ExecutionPlan graph_plan_;
  ExecutionSession session_;
  bool is_auto_;
  LinearLayers reference_layers_;
  std::unique_ptr<ExecutionSession> reference_;  // the float32 model, in step; only for AUTO
  std::vector<std::vector<bool>> counts_;        // of the data, where its tokens do not all weigh the same
  std::map<ValueId, std::vector<const Node*>> consumers_;
  std::map<std::string, int, std::less<>> uses_;  // of each tensor
  std::set<std::string> scalable_;                // norms whose weight may change
  std::set<std::string> written_;                 // weights; one that several layers share is rounded for the first
  std::unique_ptr<QuantizedCheckpointWriter> writer_;
  ValueId input_id_ = -1;
  std::unique_ptr<LayerInput> input_;      // of the layers at hand
  LayerStatistics statistics_;             // of the same
  std::map<std::string, Rounding> ready_;  // by tensor
  ExpertCoverage coverage_;
  CalibrationResult result_;
};

}  // namespace

CalibrationResult round_with_calibration(const Model& model, const QuantizationPlan& plan, const CalibrationData& data,
                                         const CalibrationOptions& options, const std::filesystem::path& folder,
                                         const RunControl& control) {
  return LayerwiseRounder(model, plan, data, options, folder, control).run();
}

}  // namespace diffulex_edge
