// Picks formats from what layers lose in them.

#include "diffulex_edge/mixed_precision.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "diffulex_edge/error.h"
#include "quant/knapsack.h"

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

}  // namespace

std::vector<LayerFormat> all_layer_formats() {
  constexpr std::array kNames = {"fp32",     "fp16",      "int8",      "int4_g32",
                                 "int4_g64", "int4_g128", "int4_g256", "int4_channel"};
  std::vector<LayerFormat> formats;
  for (const char* name : kNames) {
    formats.push_back(parse_layer_format(name));
  }
  return formats;
}

MixedPrecisionPlanner::MixedPrecisionPlanner(QuantizationConfig config, std::vector<LayerSensitivity> sensitivity,
                                             SizePredictor predict_sizes)
    : config_(std::move(config)),
      sensitivity_(std::move(sensitivity)),
      predict_sizes_(std::move(predict_sizes)),
      bytes_(sensitivity_.size()) {
  for (std::size_t i = 0; i < sensitivity_.size(); ++i) {
    bytes_[i].resize(sensitivity_[i].formats.size());
  }
  for (const LayerFormat& format : all_layer_formats()) {
    const std::vector<std::size_t> chosen = choose_uniform(format);
    const ArtefactSizes sizes = predict_sizes_(config_of(chosen));
    std::int64_t other = sizes.total;
    for (std::size_t i = 0; i < sensitivity_.size(); ++i) {
      std::int64_t bytes = 0;
      for (const std::string& layer : sensitivity_[i].layers) {
        const auto found = sizes.layers.find(layer);
        if (found == sizes.layers.end()) {
          throw Error(ErrorCode::kInternal, layer, "has no predicted size");
        }
        bytes += found->second;
      }
      bytes_[i][chosen[i]] = bytes;
      other -= bytes;
    }
    other_bytes_ = other_bytes_ == 0 ? other : std::min(other_bytes_, other);
  }
}

// Formats come from the finest to the coarsest: the coarsest one up to the wanted one.
std::vector<std::size_t> MixedPrecisionPlanner::choose_uniform(const LayerFormat& format) const {
  const std::vector<LayerFormat> all = all_layer_formats();
  const auto rank = [&](const LayerFormat& which) { return std::ranges::find(all, which) - all.begin(); };
  std::vector<std::size_t> chosen;
  for (const LayerSensitivity& unit : sensitivity_) {
    std::size_t best = 0;
    for (std::size_t i = 1; i < unit.formats.size(); ++i) {
      const auto candidate = rank(unit.formats[i].format);
      const auto current = rank(unit.formats[best].format);
      const bool candidate_fits = candidate <= rank(format);
      const bool current_fits = current <= rank(format);
      if (candidate_fits ? !current_fits || candidate > current : !current_fits && candidate < current) {
        best = i;
      }
    }
    chosen.push_back(best);
  }
  return chosen;
}

QuantizationConfig MixedPrecisionPlanner::config_of(const std::vector<std::size_t>& chosen) const {
  QuantizationConfig config = config_;
  config.layer_formats.clear();
  for (std::size_t i = 0; i < sensitivity_.size(); ++i) {
    for (const std::string& layer : sensitivity_[i].layers) {
      config.layer_formats[layer] = sensitivity_[i].formats[chosen[i]].format;
    }
  }
  return config;
}

MixedPrecisionPlan MixedPrecisionPlanner::make_plan(const std::vector<std::size_t>& chosen) const {
  MixedPrecisionPlan plan{.config = config_of(chosen)};
  plan.size = predict_sizes_(plan.config).total;
  plan.kl_divergence = sum_of_effects(sensitivity_, chosen);
  plan.kl_bound = plan.kl_divergence;
  plan.size_bound = plan.size;
  return plan;
}

MixedPrecisionPlan MixedPrecisionPlanner::uniform(const LayerFormat& format) const {
  return make_plan(choose_uniform(format));
}

MixedPrecisionPlan MixedPrecisionPlanner::for_size(std::int64_t bytes) const {
  std::vector<std::vector<KnapsackOption>> groups;
  for (std::size_t i = 0; i < sensitivity_.size(); ++i) {
    auto& group = groups.emplace_back();
    for (std::size_t j = 0; j < bytes_[i].size(); ++j) {
      group.push_back({.cost = sensitivity_[i].formats[j].kl_divergence, .weight = static_cast<double>(bytes_[i][j])});
    }
  }
  // What an artefact has beside the layers depends a little on the choice (alignment): found by trying, the least
  // first.
  std::int64_t other = other_bytes_;
  std::optional<MixedPrecisionPlan> best;
  for (int attempt = 0; attempt < kMostAttempts; ++attempt) {
    const auto solution = solve_knapsack(groups, static_cast<double>(bytes - other));
    if (!solution) {
      break;
    }
    MixedPrecisionPlan plan = make_plan(solution->chosen);
    plan.kl_bound = solution->lower_bound;
    const std::int64_t actual_other = plan.size - static_cast<std::int64_t>(solution->weight);
    if (plan.size <= bytes) {
      best = std::move(plan);
      break;
    }
    other = actual_other > other ? actual_other : other + plan.size - bytes;
  }
  if (!best) {
    MixedPrecisionPlan smallest = for_loss(std::numeric_limits<double>::max());
    if (smallest.size <= bytes) {
      return smallest;
    }
    throw Error(ErrorCode::kInvalidArgument, "target size",
                std::to_string(bytes) + " bytes are too few: the smallest choice has " + std::to_string(smallest.size),
                "allow coarser formats, fewer excluded layers, or a larger file");
  }
  return std::move(*best);
}

MixedPrecisionPlan MixedPrecisionPlanner::for_loss(double kl_divergence) const {
  std::vector<std::vector<KnapsackOption>> groups;
  double least = 0.0;
  for (std::size_t i = 0; i < sensitivity_.size(); ++i) {
    auto& group = groups.emplace_back();
    for (std::size_t j = 0; j < bytes_[i].size(); ++j) {
      group.push_back({.cost = static_cast<double>(bytes_[i][j]), .weight = sensitivity_[i].formats[j].kl_divergence});
    }
    least += std::ranges::min(group, {}, &KnapsackOption::weight).weight;
  }
  const auto solution = solve_knapsack(groups, kl_divergence);
  if (!solution) {
    throw Error(ErrorCode::kInvalidArgument, "largest loss",
                std::to_string(kl_divergence) + " nats are too few: the best choice loses " + std::to_string(least),
                "allow finer formats, or a larger loss");
  }
  MixedPrecisionPlan plan = make_plan(solution->chosen);
  plan.size_bound = plan.size - static_cast<std::int64_t>(solution->cost - solution->lower_bound);
  return plan;
}

}  // namespace diffulex_edge
