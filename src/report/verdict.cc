#include "report/verdict.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "report/description.h"
#include "report/difference.h"
#include "report/generation_report.h"
#include "report/svg.h"
#include "report/text_table.h"

namespace diffulex_edge {
namespace {

ReferenceComparison comparison_of(const SetResult& set) { return set.comparison.value_or(ReferenceComparison()); }

Estimate loss_increase(const SetResult& set) { return comparison_of(set).loss_increase; }

// "2.6 times smaller than", "1.1 times larger than"
std::string times_smaller(double original, double size) {
  const bool is_smaller = size <= original;
  return format_number(is_smaller ? original / size : size / original, 2) +
         (is_smaller ? " times smaller than" : " times larger than");
}

std::string size_sentence(const QuantizationPlan& plan) {
  const std::int64_t bytes = planned_bytes(plan);
  const std::int64_t original = original_bytes(plan);
  return "The weights take " + format_bytes(bytes) + ", " +
         times_smaller(static_cast<double>(original), static_cast<double>(bytes)) + " in FP32; ";
}

std::string nats(const Estimate& estimate) {
  Estimate size = estimate;
  size.mean = std::fabs(estimate.mean);
  return with_interval(size, 4) + " nats";
}

// "on set 90", "on 2 of 3 sets, most on set 90"
std::string where(std::size_t count, std::size_t all, const SetResult& most) {
  std::string set = "on " + set_name(most.label);
  if (count == 1) {
    return set;
  }
  return (count == all ? "on every set" : "on " + std::to_string(count) + " of " + std::to_string(all) + " sets") +
         ", most " + set;
}

std::string loss_words(const std::vector<SetResult>& sets) {
  std::map<Difference, std::size_t> count;
  for (const SetResult& set : sets) {
    ++count[difference_of(loss_increase(set))];
  }
  const std::size_t none = count[Difference::kNone];
  const std::string rest =
      none == 0 ? "" : ", with no measurable difference on the other" + std::string(none == 1 ? "" : "s");
  const SetResult& most = worst_loss(sets);
  if (count[Difference::kIncrease] > 0) {
    return "the loss rises " + where(count[Difference::kIncrease], sets.size(), most) + ", by " +
           nats(loss_increase(most)) + rest;
  }
  if (count[Difference::kDecrease] > 0) {
    const auto least = std::ranges::min_element(sets, {}, [](const SetResult& set) {
      return std::pair(difference_of(loss_increase(set)) != Difference::kDecrease, loss_increase(set).mean);
    });
    return "the loss falls " + where(count[Difference::kDecrease], sets.size(), *least) + ", by " +
           nats(loss_increase(*least)) + rest;
  }
  if (none == sets.size()) {
    return "no measurable difference in loss" + std::string(sets.size() == 1 ? "" : " on any set");
  }
  return "the loss changes by " + with_sign(loss_increase(most).mean, 4) + " nats on " + set_name(most.label) +
         ", which one sequence can't tell from chance";
}

std::string comparison_words(const std::vector<SetResult>& sets) {
  const auto changed = [](const SetResult& set) { return 1.0 - comparison_of(set).agreement; };
  const double most = changed(*std::ranges::max_element(sets, {}, changed));
  if (most == 0.0) {
    return loss_words(sets) + ", and the most probable token is the same everywhere";
  }
  return loss_words(sets) + ", and another token becomes the most probable one at " +
         (sets.size() == 1 ? "" : "up to ") + format_number(100.0 * most, 1) + "% of the positions";
}

std::string capitalized(std::string text) {
  if (!text.empty() && text[0] >= 'a' && text[0] <= 'z') {
    text[0] = static_cast<char>(text[0] - 'a' + 'A');
  }
  return text;
}

// By the type that they are stored in: "28 linear layers in int8, 1 in fp32".
std::string layer_words(const std::vector<StoredLayer>& layers) {
  std::map<QuantizationDtype, std::int64_t, std::greater<>> counts;
  for (const StoredLayer& layer : layers) {
    if (layer.plan.role == LayerRole::kLinear) {
      ++counts[layer.plan.dtype];
    }
  }
  std::string text;
  for (const auto& [dtype, count] : counts) {
    text += text.empty() ? format_count(count) + (count == 1 ? " linear layer" : " linear layers")
                         : ", " + format_count(count);
    text += " in " + std::string(to_string(dtype));
  }
  return text;
}

// The best uniform format that is no larger than the plan.
const UniformPlan* uniform_rival(const PlanReport& report) {
  const UniformPlan* best = nullptr;
  for (const UniformPlan& uniform : report.uniform) {
    const bool fits = uniform.plan.file_bytes <= report.plan.file_bytes;
    if (fits && (best == nullptr || uniform.plan.kl_divergence < best->plan.kl_divergence)) {
      best = &uniform;
    }
  }
  return best;
}

}  // namespace

std::string set_name(const std::string& label) {
  if (label == "next") {
    return "next token";
  }
  return label == "bound" ? label : "set " + label;
}

const SetResult& worst_loss(const std::vector<SetResult>& sets) {
  return *std::ranges::max_element(sets, {}, [](const SetResult& set) {
    const Estimate increase = loss_increase(set);
    return std::pair(difference_of(increase) == Difference::kIncrease, increase.mean);
  });
}

std::int64_t original_bytes(const QuantizationPlan& plan) {
  QuantizationPlan plain = plan;
  for (LayerPlan& layer : plain.layers) {
    layer.format = float_format(ElementType::kF32);
  }
  return planned_bytes(plain);
}

std::string verdict(const EvaluationReport& report) {
  const std::vector<SetResult>& sets = report.result.sets;
  const std::string size = report.plan == nullptr ? "" : size_sentence(*report.plan);
  const std::string text_words = report.answers == nullptr ? "" : "; " + generation_words(*report.answers);
  const bool compared =
      !sets.empty() && std::ranges::all_of(sets, [](const SetResult& set) { return set.comparison.has_value(); });
  if (compared) {
    return capitalized(size + comparison_words(sets)) + text_words + ".";
  }
  if (sets.empty()) {
    return capitalized(size +
                       (report.answers == nullptr ? "no set was evaluated" : generation_words(*report.answers))) +
           ".";
  }
  const auto by_loss = [](const SetResult& set) { return set.loss.mean; };
  const SetResult& least = *std::ranges::min_element(sets, {}, by_loss);
  const SetResult& most = *std::ranges::max_element(sets, {}, by_loss);
  std::string text = "the loss is " + format_number(least.loss.mean, 4) + " nats on " + set_name(least.label);
  if (sets.size() > 1) {
    text += " to " + format_number(most.loss.mean, 4) + " on " + set_name(most.label);
  }
  return capitalized(size + text) + (report.answers == nullptr ? "; nothing was compared" : text_words) + ".";
}

std::string verdict(const ExportReport& report) {
  const ExportMetadata& metadata = report.metadata;
  const auto bytes = static_cast<double>(metadata.file_bytes);
  return std::string("The file ") + (metadata.dry_run ? "would take " : "takes ") + format_bytes(metadata.file_bytes) +
         ", " + times_smaller(4.0 * static_cast<double>(metadata.parameters), bytes) + " the weights in FP32, with " +
         layer_words(metadata.layers) + "; an export does not measure accuracy, diffulex-edge evaluate does.";
}

std::string verdict(const PlanReport& report) {
  const MixedPrecisionPlan& plan = report.plan;
  std::string text =
      "The plan's file takes " + format_bytes(plan.file_bytes) + "; its predictions differ from float32's by ";
  const std::string sum = svg::number(plan.kl_divergence);
  if (plan.measured_kl_divergence) {
    text += svg::number(*plan.measured_kl_divergence) + " nats a token (KL divergence, measured; " + sum +
            " as the sum of the layers')";
  } else {
    text += sum + " nats a token (KL divergence, as the sum of the layers')";
  }
  const UniformPlan* rival = uniform_rival(report);
  if (rival == nullptr) {
    return text + ", and no single format for every layer is as small.";
  }
  return text + ", against a sum of " + svg::number(rival->plan.kl_divergence) + " with every layer in " +
         rival->format + ", the best single format that is no larger.";
}

}  // namespace diffulex_edge
