// What each layer costs in each format.
//
// The float32 model runs once, node by node. At each linear layer a copy of all sequences is appended whose output is
// that of the quantized layer; copies then run beside the original, so that every weight is read once for all of them.
// Where the copies would need too much memory, the layers are measured in several passes.

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "core/parallel.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/sensitivity.h"
#include "runtime/executor.h"
#include "runtime/linear_layers.h"
#include "runtime/prediction.h"

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
      : vocab_(static_cast<std::size_t>(model.config.vocab_size)), control_(control) {
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

  void keep(const Executor& executor) {
    logits_.resize(rows_.size() * vocab_);
    executor.logits(rows_, [&](std::size_t first, std::size_t, std::span<const float> values) {
      std::ranges::copy(values, logits_.begin() + static_cast<std::ptrdiff_t>(first * vocab_));
    });
    predictions_.resize(rows_.size());
    parallel_for(rows_.size(), control_, [&](std::size_t i, std::size_t) { predictions_[i] = predict(logits(i)); });
  }

  // KL(original || other), the mean over the rows; the other's sequences begin at its token `offset`.
  double divergence(const Executor& other, std::int64_t offset) const {
    std::vector<std::int64_t> rows = rows_;
    std::ranges::for_each(rows, [&](std::int64_t& row) { row += offset; });
    std::vector<double> divergences(rows.size());
    other.logits(rows, [&](std::size_t first, std::size_t count, std::span<const float> values) {
      parallel_for(count, control_, [&](std::size_t i, std::size_t) {
        const std::span<const float> row = values.subspan(i * vocab_, vocab_);
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

  std::size_t vocab_;
  const RunControl& control_;
  std::int64_t tokens_ = 0;
  std::vector<std::int64_t> rows_;
  std::vector<float> logits_;
  std::vector<Prediction> predictions_;
};

class SensitivityMeter {
 public:
  SensitivityMeter(const Model& model, const QuantizationConfig& config, const CalibrationData& data,
                   const std::vector<LayerFormat>& formats, const RunControl& control)
      : model_(model),
        config_(config),
        data_(data),
        formats_(formats),
        control_(control),
        original_(model, data, quiet_) {
    quiet_ = control;
    quiet_.on_progress = nullptr;
    float_config_ = config;
    float_config_.dtype = QuantizationDtype::FP32;
    float_config_.embedding_dtype.reset();
    float_config_.head_dtype.reset();
    float_config_.layer_formats.clear();
    float_plan_ = quantize_model(model, float_config_).plan;
    find_units();
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
  // Equal tensors take one format: a checkpoint stores them once.
  void find_units() {
    std::map<std::string, std::size_t> by_tensor;
    for (const LayerPlan& layer : float_plan_.layers) {
      if (layer.role != LayerRole::kLinear && layer.role != LayerRole::kEmbedding) {
        continue;
      }
      if (layer.source.is_quantized()) {
        throw Error(ErrorCode::kInvalidArgument, layer.tensor, "is quantized already",
                    "plan from the unquantized checkpoint");
      }
      const auto [position, is_new] = by_tensor.emplace(layer.tensor, units_.size());
      if (is_new) {
        units_.emplace_back().result.parameters = layer.parameters();
      }
      Unit& unit = units_[position->second];
      unit.result.layers.push_back(layer.layer);
      unit.plans.push_back(&layer);
    }
    for (Unit& unit : units_) {
      for (const LayerFormat& format : candidates(unit)) {
        unit.result.formats.push_back({.format = format});
      }
      if (unit.result.formats.empty()) {
        throw Error(ErrorCode::kInvalidArgument, unit.result.layers[0], "can take none of the formats",
                    "allow more of them, such as int8");
      }
    }
  }

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
    return LayerFormat{.dtype = *dtype, .group_size = *dtype == QuantizationDtype::INT4 ? config_.group_size : 0};
  }

  bool can_take(const LayerPlan& plan, const LayerFormat& format) const {
    const bool grouped = format.dtype == QuantizationDtype::INT4 && format.group_size != 0;
    const bool is_static = config_.mode == QuantizationMode::STATIC && plan.role == LayerRole::kLinear;
    return !grouped || (plan.columns % format.group_size == 0 && !is_static);
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
      plans_.emplace(to_string(format), quantize_model(model_, config).plan);
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
      Executor executor(model_, data_.inputs, layers, quiet_);
      executor.run_to_output();
      original_.keep(executor);
    }
    for (Unit& unit : units_) {
      if (!unit.is_linear()) {
        measure_whole(unit);
      }
    }
  }

  void run_pass(const LinearLayers& layers, const std::vector<Unit*>& pass) {
    Executor executor(model_, data_.inputs, layers, quiet_);
    std::vector<Unit*> copies;
    while (const Node* node = executor.next()) {
      const auto found = std::ranges::find_if(
          pass, [&](const Unit* unit) { return node->op == Op::kLinear && unit->result.layers[0] == node->name; });
      if (found == pass.end()) {
        executor.step();
        continue;
      }
      const Activations& all = executor.value(node->inputs[0]);
      const std::vector<float> input(all.data.begin(), all.data.begin() + original_.tokens() * all.width);
      executor.step();
      if (add_copy(executor, *node, input, **found)) {
        copies.push_back(*found);
      }
      report();
    }
    if (!original_.is_known()) {
      original_.keep(executor);
    }
    for (std::size_t i = 0; i < copies.size(); ++i) {
      probe(*copies[i]).kl_divergence =
          original_.divergence(executor, original_.tokens() * static_cast<std::int64_t>(i + 1));
    }
  }

  // Measures the layer's output in every format, and lets a copy go on with the worst one. False where no format
  // changes anything.
  bool add_copy(Executor& executor, const Node& node, const std::vector<float>& input, Unit& unit) {
    const ValueId id = executor.last();
    const std::int64_t width = executor.value(id).width;
    std::vector<float> worst;
    double worst_error = 0.0;
    for (FormatEffect& effect : unit.result.formats) {
      std::vector<float> output(static_cast<std::size_t>(original_.tokens() * width));
      LinearLayers(model_, &plans_.at(to_string(effect.format))).run(node, input, output, original_.tokens(), quiet_);
      const double error = relative_error(output, executor.mutable_rows(id, 0, original_.tokens()));
      effect.output_error = error;
      if (error > worst_error) {
        worst_error = error;
        worst = std::move(output);
      }
    }
    if (worst.empty()) {
      return false;
    }
    const std::int64_t begin = executor.tokens();
    executor.append_copies(data_.inputs.size());
    std::ranges::copy(worst, executor.mutable_rows(id, begin, original_.tokens()).begin());
    return true;
  }

  static FormatEffect& probe(Unit& unit) {
    FormatEffect& effect = *std::ranges::max_element(unit.result.formats, {}, &FormatEffect::output_error);
    effect.measured = true;
    return effect;
  }

  // The embedding and the head, whose effect nothing but a run of the whole model shows. The output that is compared
  // is the predictions'.
  void measure_whole(Unit& unit) {
    for (FormatEffect& effect : unit.result.formats) {
      QuantizationConfig config = float_config_;
      for (const Unit& other : units_) {
        for (const std::string& layer : other.result.layers) {
          config.layer_formats[layer] = &other == &unit ? effect.format : LayerFormat{};
        }
      }
      const QuantizationPlan plan = quantize_model(model_, config).plan;
      const LinearLayers layers(model_, &plan);
      Executor executor(model_, data_.inputs, layers, quiet_);
      executor.run_to_output();
      effect.kl_divergence = original_.divergence(executor, 0);
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
  const QuantizationConfig& config_;
  const CalibrationData& data_;
  const std::vector<LayerFormat>& formats_;
  const RunControl& control_;
  RunControl quiet_;  // of parts of the work: progress is counted in layers
  QuantizationConfig float_config_;
  QuantizationPlan float_plan_;
  std::vector<Unit> units_;
  std::map<std::string, QuantizationPlan> plans_;  // by format
  OriginalPredictions original_;
  std::int64_t done_ = 0;
  std::int64_t total_ = 0;
};

}  // namespace

std::vector<LayerSensitivity> measure_sensitivity(const Model& model, const QuantizationConfig& config,
                                                  const CalibrationData& data, const std::vector<LayerFormat>& formats,
                                                  const RunControl& control) {
  const bool streams = config.method == RoundingMethod::RTN || config.method == RoundingMethod::MSE ||
                       config.method == RoundingMethod::HQQ;
  if (!streams) {
    throw Error(ErrorCode::kInvalidArgument, "method",
                std::string(to_string(config.method)) + " can't measure single layers",
                "plan with rtn, mse or hqq; the plan can be exported with any method");
  }
  return SensitivityMeter(model, config, data, formats, control).run();
}

double measure_divergence(const Model& model, const QuantizationPlan& plan, const CalibrationData& data,
                          const RunControl& control) {
  OriginalPredictions original(model, data, control);
  const LinearLayers layers(model, nullptr);
  Executor executor(model, data.inputs, layers, control);
  executor.run_to_output();
  original.keep(executor);
  const LinearLayers planned_layers(model, &plan);
  Executor planned(model, data.inputs, planned_layers, control);
  planned.run_to_output();
  return original.divergence(planned, 0);
}

MixedPrecisionPlan plan_for_measured_loss(const MixedPrecisionPlanner& planner, const Model& model,
                                          const CalibrationData& data, double kl_divergence,
                                          const RunControl& control) {
  constexpr int kMostAttempts = 6;
  constexpr double kMargin = 0.98;
  double allowed = kl_divergence;
  for (int attempt = 0; attempt < kMostAttempts; ++attempt) {
    MixedPrecisionPlan plan = planner.for_loss(allowed);
    const double measured = measure_divergence(model, quantize_model(model, plan.config).plan, data, control);
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
