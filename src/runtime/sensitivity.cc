// What each layer costs in each format.
//
// The float32 model runs once, node by node. At each linear layer a copy of all sequences is appended whose output is
// that of the quantized layer; copies then run beside the original, so that every weight is read once for all of them.
// Where the copies would need too much memory, the layers are measured in several passes.

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>

#include "core/parallel.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/sensitivity.h"
#include "quant/arithmetic.h"
#include "quant/expert_name.h"
#include "runtime/execution_session.h"
#include "runtime/linear_layers.h"
#include "runtime/prediction.h"
#include "runtime/preflight.h"
#include "runtime/value_check.h"

namespace diffulex_edge {
namespace {

constexpr std::int64_t kMostElements = std::int64_t{1} << 25U;     // copies' tokens x width of the widest activation
constexpr std::size_t kMostLogitElements = std::size_t{1} << 26U;  // of the original's logits

// Layers of one decision, and where they are in the plans.
struct Unit {
  LayerSensitivity result;
  std::vector<const LayerPlan*> plans;  // float32
  // One linear layer with the rest of the model after it: measured by a copy.
  bool is_linear() const {
    return plans.size() == 1 && plans[0]->role == LayerRole::kLinear && plans[0]->layer != "lm_head";
  }
};

double relative_error(std::span<const float> values, std::span<const float> reference) {
  double error = 0.0;
  double signal = 0.0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double difference = static_cast<double>(values[i]) - static_cast<double>(reference[i]);
    error += difference * difference;
    signal += static_cast<double>(reference[i]) * static_cast<double>(reference[i]);
  }
  return signal == 0.0 ? 0.0 : error / signal;
}

// What the float32 model predicts where it counts, and how far others are from it.
class OriginalPredictions {
 public:
  OriginalPredictions(const Model& model, const CalibrationData& data, const RunControl& control)
      : model_(model), vocab_(static_cast<std::size_t>(model.config.vocab_size)), control_(control) {
    for (const auto& sequence : data.counts) {
      for (const bool counts : sequence) {
        if (counts) {
          rows_.push_back(tokens_);
        }
        ++tokens_;
      }
    }
    if (rows_.empty()) {
      throw Error(ErrorCode::kInvalidArgument, "sensitivity", "the data has no position whose prediction counts",
                  "give masked states, or text");
    }
    thin_out();
  }

  std::int64_t tokens() const { return tokens_; }
  bool is_known() const { return !predictions_.empty(); }

  void keep(ExecutionSession& session) {
    logits_.resize(rows_.size() * vocab_);
    session.logits(rows_, [&](std::size_t first, std::size_t, std::span<const float> values) {
      check_logits(model_, values);
      std::ranges::copy(values, logits_.begin() + static_cast<std::ptrdiff_t>(first * vocab_));
    });
    predictions_.resize(rows_.size());
    parallel_for(rows_.size(), control_, [&](std::size_t i, std::size_t) { predictions_[i] = predict(logits(i)); });
  }

  // KL(original || other), the mean over the rows; the other's sequences begin at its token `offset`.
  double divergence(ExecutionSession& other, std::int64_t offset) const {
    std::vector<std::int64_t> rows = rows_;
    std::ranges::for_each(rows, [&](std::int64_t& row) { row += offset; });
    std::vector<double> divergences(rows.size());
    other.logits(rows, [&](std::size_t first, std::size_t count, std::span<const float> values) {
      parallel_for(count, control_, [&](std::size_t i, std::size_t) {
        const std::span<const float> row = values.subspan(i * vocab_, vocab_);
        check_logits(model_, row);
        divergences[first + i] = kl_divergence(logits(first + i), predictions_[first + i], row, predict(row));
      });
    });
    double sum = 0.0;
    for (const double value : divergences) {
      sum += value;
    }
    return sum / static_cast<double>(divergences.size());
  }

 private:
  std::span<const float> logits(std::size_t index) const { return std::span(logits_).subspan(index * vocab_, vocab_); }

  // The logits of all rows are kept.
  void thin_out() {
    const std::size_t most = std::max<std::size_t>(kMostLogitElements / vocab_, 1);
    if (rows_.size() <= most) {
      return;
    }
    std::vector<std::int64_t> kept;
    for (std::size_t i = 0; i < most; ++i) {
      kept.push_back(rows_[i * rows_.size() / most]);
    }
    rows_ = std::move(kept);
  }

  const Model& model_;
  std::size_t vocab_;
  const RunControl& control_;
  std::int64_t tokens_ = 0;
  std::vector<std::int64_t> rows_;
  std::vector<float> logits_;
  std::vector<Prediction> predictions_;
};

QuantizationConfig float_config_of(const QuantizationConfig& config) {
  QuantizationConfig wanted = config;
  wanted.dtype = QuantizationDtype::FP32;
  wanted.embedding_dtype.reset();
  wanted.head_dtype.reset();
  wanted.layer_formats.clear();
  return wanted;
}

// The layers of each decision, and the formats that they can take.
class UnitFinder {
 public:
  UnitFinder(const QuantizationConfig& config, const std::vector<LayerFormat>& formats, const TargetArithmetic& target)
      : config_(config), formats_(formats), target_(target) {}

  // Equal tensors take one format: a checkpoint stores them once. So do all experts of a layer: how often each is
  // chosen is the data's matter, and thousands of measurements would be.
  std::vector<Unit> find(const QuantizationPlan& float_plan) const {
    std::vector<Unit> units;
    std::map<std::string, std::size_t> by_tensor;
    for (const LayerPlan& layer : float_plan.layers) {
      if (layer.role != LayerRole::kLinear && layer.role != LayerRole::kEmbedding) {
        continue;
      }
      if (layer.source.is_quantized()) {
        throw Error(ErrorCode::kInvalidArgument, layer.tensor, "is quantized already",
                    "plan from the unquantized checkpoint");
      }
      const auto expert = parse_expert_name(layer.layer);
      const auto [position, is_new] = by_tensor.emplace(expert ? expert->group : layer.tensor, units.size());
      if (is_new) {
        units.emplace_back();
      }
      Unit& unit = units[position->second];
      unit.result.parameters += is_new || expert ? layer.parameters() : 0;
      unit.result.layers.push_back(layer.layer);
      unit.plans.push_back(&layer);
    }
    for (Unit& unit : units) {
      for (const LayerFormat& format : candidates(unit)) {
        unit.result.formats.push_back({.format = format});
      }
      if (unit.result.formats.empty()) {
        throw Error(ErrorCode::kInvalidArgument, unit.result.layers[0], "can take none of the formats",
                    "allow more of them, such as int8");
      }
    }
    return units;
  }

 private:
  std::vector<LayerFormat> candidates(const Unit& unit) const {
    std::optional<LayerFormat> settled;
    for (const LayerPlan* plan : unit.plans) {
      if (const auto format = settled_format(*plan)) {
        if (settled && !(*settled == *format)) {
          throw Error(ErrorCode::kInvalidArgument, plan->tensor, "embedding and head share it, so they share a format",
                      "give --embedding-dtype and --head-dtype the same value");
        }
        settled = format;
      }
    }
    if (settled) {
      return {*settled};
    }
    std::vector<LayerFormat> fitting;
    for (const LayerFormat& format : formats_) {
      const bool fits = std::ranges::all_of(unit.plans, [&](const LayerPlan* plan) { return can_take(*plan, format); });
      if (fits) {
        fitting.push_back(format);
      }
    }
    return fitting;
  }

  std::optional<LayerFormat> settled_format(const LayerPlan& plan) const {
    if (plan.excluded) {
      return LayerFormat{};
    }
    const bool is_embedding = plan.role == LayerRole::kEmbedding;
    if (!is_embedding && plan.layer != "lm_head") {
      return std::nullopt;
    }
    const std::optional<QuantizationDtype>& dtype = is_embedding ? config_.embedding_dtype : config_.head_dtype;
    if (!dtype) {
      return std::nullopt;
    }
    return LayerFormat{.dtype = *dtype, .group_size = format_row(*dtype).takes_groups ? config_.group_size : 0};
  }

  bool can_take(const LayerPlan& plan, const LayerFormat& format) const {
    const FormatRow& row = format_row(format.dtype);
    if (row.has_codebook()) {
      return config_.palette_group == 0 || plan.rows % config_.palette_group == 0;
    }
    const bool grouped = row.takes_groups && format.group_size != 0;
    const bool is_static = config_.mode == QuantizationMode::STATIC && plan.role == LayerRole::kLinear;
    return (!grouped || plan.columns % format.group_size == 0) && (!is_static || has_static_kernel(format, target_));
  }

  const QuantizationConfig& config_;
  const std::vector<LayerFormat>& formats_;
  const TargetArithmetic& target_;
};

class SensitivityMeter {
 public:
  SensitivityMeter(const Model& model, const SensitivityRequest& request, const CalibrationData& data,
                   const std::vector<LayerFormat>& formats, const RunControl& control)
      : model_(model),
        request_(request),
        data_(data),
        control_(control),
        graph_plan_(model.graph),
        original_(model, data, quiet_) {
    quiet_ = control;
    quiet_.on_progress = nullptr;
    float_config_ = float_config_of(request.config);
    float_plan_ = plan_of(float_config_);
    units_ = UnitFinder(request.config, formats, request.target).find(float_plan_);
    make_format_plans();
  }

  std::vector<LayerSensitivity> run() {
    count_work();
    run_reference();
    std::vector<LayerSensitivity> result;
    for (Unit& unit : units_) {
      scale_unmeasured(unit.result);
      result.push_back(std::move(unit.result));
    }
    return result;
  }

 private:
  QuantizationPlan plan_of(const QuantizationConfig& config) const {
    return quantize_model(model_, config, request_.findings, request_.target).plan;
  }

  // For each format a plan that gives it to every layer that has it among its candidates, and FP32 to the others.
  void make_format_plans() {
    std::vector<LayerFormat> all;
    for (const Unit& unit : units_) {
      for (const FormatEffect& effect : unit.result.formats) {
        if (std::ranges::find(all, effect.format) == all.end()) {
          all.push_back(effect.format);
        }
      }
    }
    for (const LayerFormat& format : all) {
      QuantizationConfig config = float_config_;
      for (const Unit& unit : units_) {
        const bool has =
            std::ranges::find(unit.result.formats, format, &FormatEffect::format) != unit.result.formats.end();
        for (const std::string& layer : unit.result.layers) {
          config.layer_formats[layer] = has ? format : LayerFormat{};
        }
      }
      plans_.emplace(to_string(format), plan_of(config));
    }
  }

  // Passes over the layers, each with as many linear layers as there is memory for copies.
  std::vector<std::vector<Unit*>> passes() {
    const std::int64_t widest = widest_activation(model_.config);
    const auto most =
        static_cast<std::size_t>(std::max<std::int64_t>(kMostElements / (widest * original_.tokens()), 1));
    std::vector<std::vector<Unit*>> result;
    for (Unit& unit : units_) {
      if (unit.is_linear()) {
        if (result.empty() || result.back().size() == most) {
          result.emplace_back();
        }
        result.back().push_back(&unit);
      }
    }
    return result;
  }

  // Runs of the whole model: each linear layer's copy takes half of one on average.
  void count_work() {
    for (const Unit& unit : units_) {
      total_ += 1 + static_cast<std::int64_t>(unit.is_linear() ? 0 : unit.result.formats.size());
    }
  }

  void report() {
    ++done_;
    if (control_.on_progress) {
      control_.on_progress(
          {.stage = "sensitivity", .done_bytes = std::min(done_, total_), .total_bytes = total_, .in_bytes = false});
    }
  }

  void run_reference() {
    const LinearLayers layers(model_, nullptr);
    for (const std::vector<Unit*>& pass : passes()) {
      run_pass(layers, pass);
    }
    if (!original_.is_known()) {  // a model whose only linear layer is its head
      ExecutionSession session = start(layers);
      run_checked(model_, session, quiet_);
      original_.keep(session);
    }
    for (Unit& unit : units_) {
      if (!unit.is_linear()) {
        measure_whole(unit);
      }
    }
  }

  void run_pass(const LinearLayers& layers, const std::vector<Unit*>& pass) {
    ExecutionSession session = start(layers);
    std::vector<Unit*> copies;
    while (const Node* node = session.next()) {
      const auto found = std::ranges::find_if(
          pass, [&](const Unit* unit) { return node->op == Op::kLinear && unit->result.layers[0] == node->name; });
      if (found == pass.end()) {
        session.step();
        check_step(model_, *node, session, quiet_);
        continue;
      }
      const Activations& all = session.value(node->inputs[0]);
      const std::vector<float> input(all.data.begin(), all.data.begin() + original_.tokens() * all.width);
      session.step();
      check_step(model_, *node, session, quiet_);
      if (add_copy(session, *node, input, **found)) {
        copies.push_back(*found);
      }
      report();
    }
    if (!original_.is_known()) {
      original_.keep(session);
    }
    for (std::size_t i = 0; i < copies.size(); ++i) {
      probe(*copies[i]).kl_divergence =
          original_.divergence(session, original_.tokens() * static_cast<std::int64_t>(i + 1));
    }
  }

  // Measures the layer's output in every format, and lets a copy go on with the worst one. False where no format
  // changes anything.
  bool add_copy(ExecutionSession& session, const Node& node, const std::vector<float>& input, Unit& unit) {
    const ValueId id = session.last();
    const std::int64_t width = session.value(id).width;
    std::vector<float> worst;
    double worst_error = 0.0;
    for (FormatEffect& effect : unit.result.formats) {
      std::vector<float> output(static_cast<std::size_t>(original_.tokens() * width));
      LinearLayers(model_, &plans_.at(to_string(effect.format))).run(node, input, output, original_.tokens(), quiet_);
      const double error = relative_error(output, session.mutable_rows(id, 0, original_.tokens()));
      if (!std::isfinite(error)) {
        throw Error(ErrorCode::kBadFile, model_.path.string(),
                    "'" + node.name + "' in " + to_string(effect.format) + " gives values that are not finite",
                    "the checkpoint is broken, or needs another format");
      }
      effect.output_error = error;
      if (error > worst_error) {
        worst_error = error;
        worst = std::move(output);
      }
    }
    if (worst.empty()) {
      return false;
    }
    const std::int64_t begin = session.tokens();
    session.append_copies(data_.inputs.size());
    std::ranges::copy(worst, session.mutable_rows(id, begin, original_.tokens()).begin());
    return true;
  }

  ExecutionSession start(const ModelLayers& layers) const {
    ExecutionSession session(graph_plan_, model_, layers, quiet_);
    session.begin(make_batch(model_, data_.inputs));
    return session;
  }

  static FormatEffect& probe(Unit& unit) {
    FormatEffect& effect = *std::ranges::max_element(unit.result.formats, {}, &FormatEffect::output_error);
    effect.measured = true;
    return effect;
  }

  // The embedding, the head and a layer's experts, whose effect a run of the whole model shows. The output that is
  // compared is the predictions'.
  void measure_whole(Unit& unit) {
    for (FormatEffect& effect : unit.result.formats) {
      QuantizationConfig config = float_config_;
      for (const Unit& other : units_) {
        for (const std::string& layer : other.result.layers) {
          config.layer_formats[layer] = &other == &unit ? effect.format : LayerFormat{};
        }
      }
      const QuantizationPlan plan = plan_of(config);
      const LinearLayers layers(model_, &plan);
      ExecutionSession session = start(layers);
      run_checked(model_, session, quiet_);
      effect.kl_divergence = original_.divergence(session, 0);
      effect.measured = true;
      report();
    }
  }

  static void scale_unmeasured(LayerSensitivity& unit) {
    const auto worst = std::ranges::max_element(unit.formats, {}, &FormatEffect::output_error);
    const double worst_error = worst->output_error.value_or(0.0);
    for (FormatEffect& effect : unit.formats) {
      if (!effect.measured && worst_error > 0.0) {
        effect.kl_divergence = worst->kl_divergence * effect.output_error.value_or(0.0) / worst_error;
      }
    }
  }

  const Model& model_;
  const SensitivityRequest& request_;
  const CalibrationData& data_;
  const RunControl& control_;
  RunControl quiet_;  // of parts of the work: progress is counted in layers
  ExecutionPlan graph_plan_;
  QuantizationConfig float_config_;
  QuantizationPlan float_plan_;
  std::vector<Unit> units_;
  std::map<std::string, QuantizationPlan> plans_;  // by format
  OriginalPredictions original_;
  std::int64_t done_ = 0;
  std::int64_t total_ = 0;
};

void check_method(const QuantizationConfig& config) {
  const bool streams = config.method == RoundingMethod::RTN || config.method == RoundingMethod::MSE ||
                       config.method == RoundingMethod::HQQ;
  if (!streams) {
    throw Error(ErrorCode::kInvalidArgument, "method",
                std::string(to_string(config.method)) + " can't measure single layers",
                "plan with rtn, mse or hqq; the plan can be exported with any method");
  }
}

}  // namespace

std::vector<LayerSensitivity> unmeasured_layers(const Model& model, const QuantizationConfig& config,
                                                const std::vector<LayerFormat>& formats,
                                                const TargetArithmetic& target) {
  check_method(config);
  const QuantizationPlan plan = quantize_model(model, float_config_of(config)).plan;
  std::vector<LayerSensitivity> layers;
  for (Unit& unit : UnitFinder(config, formats, target).find(plan)) {
    layers.push_back(std::move(unit.result));
  }
  return layers;
}

std::vector<LayerSensitivity> measure_sensitivity(const Model& model, const SensitivityRequest& request,
                                                  const CalibrationData& data, const std::vector<LayerFormat>& formats,
                                                  const RunControl& control) {
  check_method(request.config);
  return SensitivityMeter(model, request, data, formats, control).run();
}

double measure_divergence(const Model& model, const QuantizationPlan& plan, const CalibrationData& data,
                          const RunControl& control) {
  OriginalPredictions original(model, data, control);
  const LinearLayers layers(model, nullptr);
  const ExecutionPlan graph_plan(model.graph);
  ExecutionSession session(graph_plan, model, layers, control);
  session.begin(make_batch(model, data.inputs));
  run_checked(model, session, control);
  original.keep(session);
  const LinearLayers planned_layers(model, &plan);
  const std::optional<StaticValues> integers = make_static_values(model, &plan);
  ExecutionSession planned(graph_plan, model, planned_layers, control, integers ? &*integers : nullptr);
  planned.begin(make_batch(model, data.inputs));
  run_checked(model, planned, control);
  return original.divergence(planned, 0);
}

MixedPrecisionPlan plan_for_measured_loss(const MixedPrecisionPlanner& planner, const Model& model,
                                          const SensitivityRequest& request, const CalibrationData& data,
                                          double kl_divergence, const RunControl& control) {
  constexpr int kMostAttempts = 6;
  constexpr double kMargin = 0.98;
  double allowed = kl_divergence;
  for (int attempt = 0; attempt < kMostAttempts; ++attempt) {
    MixedPrecisionPlan plan = planner.for_loss(allowed);
    const QuantizationPlan layers = quantize_model(model, plan.config, request.findings, request.target).plan;
    const double measured = measure_divergence(model, layers, data, control);
    plan.measured_kl_divergence = measured;
    if (measured <= kl_divergence) {
      return plan;
    }
    allowed *= kMargin * kl_divergence / measured;
  }
  throw Error(ErrorCode::kInvalidArgument, "largest loss",
              "no plan that was tried stays within " + std::to_string(kl_divergence) + " nats",
              "allow finer formats, or a larger loss");
}

}  // namespace diffulex_edge
