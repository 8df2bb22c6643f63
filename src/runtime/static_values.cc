#include "runtime/static_values.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "graph/graph_parts.h"
#include "quant/affine_scale.h"
#include "quant/static_graph.h"

namespace diffulex_edge {
namespace {

// The logits of a head in floating point stay there.
bool has_float_logits(const Model& model, const QuantizationPlan& plan) {
  const Node& head = model.graph.node(model.graph.output());
  return plan.at(head.name, model.graph.tensor(head.inputs[1])).arithmetic.activations !=
         LayerArithmetic::Activations::kStaticInGraph;
}

}  // namespace

StaticValues::StaticValues(const Model& model, const QuantizationPlan& plan)
    : bits_(plan.target.static_bits), is_rounded_(values_of_inputs(model.graph)) {
  const Graph& graph = model.graph;
  const GraphActivations& observed = observed_ranges(graph, plan.findings);
  for (const ActivationRange& range : observed.values) {
    ranges_.push_back(with_headroom(range, bits_));
  }
  is_table_.resize(ranges_.size());
  for (std::size_t i = 0; i < graph.nodes().size(); ++i) {
    const Node& node = graph.nodes()[i];
    const auto value = static_cast<ValueId>(i);
    if (node.op == Op::kInput) {
      is_rounded_[i] = false;
    }
    if (node.op == Op::kAttention) {
      scores_[value] = with_headroom(observed_scores(observed, value), bits_);
    }
    if (node.op == Op::kRope) {
      is_table_[static_cast<std::size_t>(node.inputs[1])] = true;
      is_table_[static_cast<std::size_t>(node.inputs[2])] = true;
    }
  }
  if (has_float_logits(model, plan)) {
    is_rounded_[static_cast<std::size_t>(graph.output())] = false;
  }
}

std::optional<AffineScale> StaticValues::find(ValueId value, std::span<const float> values) const {
  const auto index = static_cast<std::size_t>(value);
  if (is_table_[index]) {
    return constant(values);
  }
  return is_rounded_[index] ? std::optional(scale_of(covered_range(value))) : std::nullopt;
}

AffineScale StaticValues::scaled_queries(ValueId queries, float scale) const {
  return scale_of(scaled(covered_range(queries), scale));
}
AffineScale StaticValues::scores(ValueId attention) const { return scale_of(scores_.at(attention)); }
AffineScale StaticValues::masked_scores(ValueId attention) const {
  return scale_of(masked_range(scores_.at(attention), bits_));
}
AffineScale StaticValues::shares() const { return scale_of({.min = 0.0F, .max = 1.0F}); }
AffineScale StaticValues::silu(ValueId x) const { return scale_of(silu_range(covered_range(x))); }
AffineScale StaticValues::turned(ValueId x) const { return scale_of(around_zero(covered_range(x))); }

AffineScale StaticValues::constant(std::span<const float> values) const { return scale_of(range_of(values)); }

std::optional<StaticValues> make_static_values(const Model& model, const QuantizationPlan* plan) {
  return plan != nullptr && plan->is_static_everywhere() ? std::optional<StaticValues>(std::in_place, model, *plan)
                                                         : std::nullopt;
}

void StaticValues::round(std::span<float> values, const AffineScale& scale) const {
  const auto zero = static_cast<float>(scale.zero_point);
  const float highest = std::ldexp(1.0F, bits_ - 1) - 1.0F - zero;
  const float lowest = -std::ldexp(1.0F, bits_ - 1) - zero;
  for (float& value : values) {
    value = std::clamp(std::nearbyint(value / scale.scale), lowest, highest) * scale.scale;
  }
}

}  // namespace diffulex_edge
