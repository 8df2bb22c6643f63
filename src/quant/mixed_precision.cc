// Picks formats from what layers lose in them.

#include "diffulex_edge/mixed_precision.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "diffulex_edge/error.h"
#include "quant/knapsack.h"
#include "quant/layer_formats.h"

namespace diffulex_edge {
namespace {

constexpr int kMostAttempts = 4;

double sum_of_effects(const std::vector<LayerSensitivity>& units, const std::vector<std::size_t>& chosen) {
  double sum = 0.0;
  for (std::size_t i = 0; i < units.size(); ++i) {
    sum += units[i].formats[chosen[i]].kl_divergence;
  }
  return sum;
}

// The place among all formats.
std::ptrdiff_t rank(const LayerFormat& format) {
  static const std::vector<LayerFormat> all = all_layer_formats();
  return std::ranges::find(all, format) - all.begin();
}

std::int64_t unit_bytes(const LayerSensitivity& unit, const ArtefactSizes& sizes) {
  std::int64_t bytes = 0;
  for (const std::string& layer : unit.layers) {
    const auto found = sizes.layers.find(layer);
    if (found == sizes.layers.end()) {
      throw Error(ErrorCode::kInternal, layer, "has no predicted size");
    }
    bytes += found->second;
  }
  return bytes;
}

}  // namespace

const LayerFormat& MixedPrecisionPlan::format_of(const LayerSensitivity& unit) const {
  const auto found = config.layer_formats.find(unit.layers.front());
  if (found == config.layer_formats.end()) {
    throw Error(ErrorCode::kInternal, unit.layers.front(), "is not in the plan");
  }
  return found->second;
}

struct MixedPrecisionPlanner::State {
  QuantizationConfig config;
  std::vector<LayerSensitivity> sensitivity;
  SizePredictor predict_sizes;
  std::vector<std::vector<std::int64_t>> bytes;  // of each unit in each of its formats
  std::vector<std::int64_t> uniform_bytes;       // of the artefact with all layers in one format, for each format
  std::int64_t other_bytes = 0;                  // of an artefact, beside the layers, at least

  State(QuantizationConfig wanted, std::vector<LayerSensitivity> measured, SizePredictor predictor);
  std::vector<std::size_t> choose_uniform(const LayerFormat& format) const;
  QuantizationConfig config_of(const std::vector<std::size_t>& chosen) const;
  MixedPrecisionPlan make_plan(const std::vector<std::size_t>& chosen) const;
  MixedPrecisionPlan make_plan(const std::vector<std::size_t>& chosen, std::int64_t size) const;
};

MixedPrecisionPlanner::State::State(QuantizationConfig wanted, std::vector<LayerSensitivity> measured,
                                    SizePredictor predictor)
    : config(std::move(wanted)),
      sensitivity(std::move(measured)),
      predict_sizes(std::move(predictor)),
      bytes(sensitivity.size()) {
  for (std::size_t i = 0; i < sensitivity.size(); ++i) {
    std::ranges::sort(sensitivity[i].formats, {}, [](const FormatEffect& effect) { return rank(effect.format); });
    bytes[i].resize(sensitivity[i].formats.size());
  }
  std::optional<std::int64_t> least_other;
  for (const LayerFormat& format : all_layer_formats()) {
    const std::vector<std::size_t> chosen = choose_uniform(format);
    const ArtefactSizes sizes = predict_sizes(config_of(chosen));
    uniform_bytes.push_back(sizes.total);
    std::int64_t other = sizes.total;
    for (std::size_t i = 0; i < sensitivity.size(); ++i) {
      bytes[i][chosen[i]] = unit_bytes(sensitivity[i], sizes);
      other -= bytes[i][chosen[i]];
    }
    least_other = std::min(other, least_other.value_or(other));
  }
  other_bytes = least_other.value_or(0);
}

// The coarsest format up to the wanted one, or the finest.
std::vector<std::size_t> MixedPrecisionPlanner::State::choose_uniform(const LayerFormat& format) const {
  std::vector<std::size_t> chosen;
  for (const LayerSensitivity& unit : sensitivity) {
    const auto fitting = std::ranges::count_if(
        unit.formats, [&](const FormatEffect& effect) { return rank(effect.format) <= rank(format); });
    chosen.push_back(static_cast<std::size_t>(std::max<std::ptrdiff_t>(fitting, 1) - 1));
  }
  return chosen;
}

QuantizationConfig MixedPrecisionPlanner::State::config_of(const std::vector<std::size_t>& chosen) const {
  QuantizationConfig chosen_config = config;
  chosen_config.layer_formats.clear();
  for (std::size_t i = 0; i < sensitivity.size(); ++i) {
    for (const std::string& layer : sensitivity[i].layers) {
      chosen_config.layer_formats[layer] = sensitivity[i].formats[chosen[i]].format;
    }
  }
  return chosen_config;
}

MixedPrecisionPlan MixedPrecisionPlanner::State::make_plan(const std::vector<std::size_t>& chosen) const {
  return make_plan(chosen, predict_sizes(config_of(chosen)).total);
}

MixedPrecisionPlan MixedPrecisionPlanner::State::make_plan(const std::vector<std::size_t>& chosen,
                                                           std::int64_t size) const {
  MixedPrecisionPlan plan{.config = config_of(chosen), .file_bytes = size};
  plan.kl_divergence = sum_of_effects(sensitivity, chosen);
  plan.kl_divergence_bound = plan.kl_divergence;
  plan.file_bytes_bound = plan.file_bytes;
  return plan;
}

MixedPrecisionPlanner::MixedPrecisionPlanner(QuantizationConfig config, std::vector<LayerSensitivity> sensitivity,
                                             SizePredictor predict_sizes)
    : state_(std::make_shared<const State>(std::move(config), std::move(sensitivity), std::move(predict_sizes))) {}

const std::vector<LayerSensitivity>& MixedPrecisionPlanner::sensitivity() const { return state_->sensitivity; }

MixedPrecisionPlan MixedPrecisionPlanner::uniform(const LayerFormat& format) const {
  return state_->make_plan(state_->choose_uniform(format),
                           state_->uniform_bytes.at(static_cast<std::size_t>(rank(format))));
}

MixedPrecisionPlan MixedPrecisionPlanner::for_size(std::int64_t bytes) const {
  std::vector<std::vector<KnapsackOption>> groups;
  for (std::size_t i = 0; i < state_->sensitivity.size(); ++i) {
    auto& group = groups.emplace_back();
    for (std::size_t j = 0; j < state_->bytes[i].size(); ++j) {
      group.push_back({.cost = state_->sensitivity[i].formats[j].kl_divergence,
                       .weight = static_cast<double>(state_->bytes[i][j])});
    }
  }
  // What an artefact has beside the layers depends a little on the choice (alignment): found by trying, the least
  // first.
  std::int64_t other = state_->other_bytes;
  for (int attempt = 0; attempt < kMostAttempts; ++attempt) {
    const auto solution = solve_knapsack(groups, static_cast<double>(bytes - other));
    if (!solution) {
      break;
    }
    MixedPrecisionPlan plan = state_->make_plan(solution->chosen);
    if (plan.file_bytes <= bytes) {
      plan.kl_divergence_bound = solution->lower_bound;
      return plan;
    }
    other = plan.file_bytes - static_cast<std::int64_t>(solution->weight);  // more than it was
  }
  MixedPrecisionPlan smallest = for_loss(std::numeric_limits<double>::max());
  if (smallest.file_bytes > bytes) {
    throw Error(
        ErrorCode::kInvalidArgument, "target size",
        std::to_string(bytes) + " bytes are too few: the smallest choice has " + std::to_string(smallest.file_bytes),
        "allow coarser formats, fewer excluded layers, or a larger file");
  }
  return smallest;
}

MixedPrecisionPlan MixedPrecisionPlanner::for_loss(double kl_divergence) const {
  std::vector<std::vector<KnapsackOption>> groups;
  double least = 0.0;
  for (std::size_t i = 0; i < state_->sensitivity.size(); ++i) {
    auto& group = groups.emplace_back();
    for (std::size_t j = 0; j < state_->bytes[i].size(); ++j) {
      group.push_back({.cost = static_cast<double>(state_->bytes[i][j]),
                       .weight = state_->sensitivity[i].formats[j].kl_divergence});
    }
    least += std::ranges::min(group, {}, &KnapsackOption::weight).weight;
  }
  const auto solution = solve_knapsack(groups, kl_divergence);
  if (!solution) {
    throw Error(ErrorCode::kInvalidArgument, "largest loss",
                std::to_string(kl_divergence) + " nats are too few: the best choice loses " + std::to_string(least),
                "allow finer formats, or a larger loss");
  }
  MixedPrecisionPlan plan = state_->make_plan(solution->chosen);
  plan.file_bytes_bound = plan.file_bytes - static_cast<std::int64_t>(solution->cost - solution->lower_bound);
  return plan;
}

}  // namespace diffulex_edge
