// Mode static where every value of the graph is an integer, simulated in float32: values are rounded to what their
// integers stand for, those inside an operator as well, as the QNN backend lowers it. Not simulated: biases are added
// in floating point, and what is masked has no share at all.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <vector>

#include "diffulex_edge/activations.h"
#include "diffulex_edge/model.h"
#include "diffulex_edge/quantization.h"
#include "quant/affine_scale.h"

namespace diffulex_edge {

class StaticValues {
 public:
  // Keeps no reference. Throws Error{kInvalidArgument} without the ranges of all values.
  StaticValues(const Model& model, const QuantizationPlan& plan);

  // How a value of the graph is rounded, or what follows from positions only, by its own `values`; nullopt: not at
  // all.
  std::optional<AffineScale> find(ValueId value, std::span<const float> values) const;
  // A constant, by its own values.
  AffineScale constant(std::span<const float> values) const;
  // Of an attention: its queries times its scale, the scores, those with a mask, and what the softmax makes of them.
  AffineScale scaled_queries(ValueId queries, float scale) const;
  AffineScale scores(ValueId attention) const;
  AffineScale masked_scores(ValueId attention) const;
  // What lies between 0 and 1: softmax and sigmoid.
  AffineScale shares() const;
  // x * sigmoid(x), and of rotation the two products.
  AffineScale silu(ValueId x) const;
  AffineScale turned(ValueId x) const;

  void round(std::span<float> values, const AffineScale& scale) const;

 private:
  AffineScale scale_of(const ActivationRange& range) const { return affine_scale(range, bits_); }
  const ActivationRange& covered_range(ValueId value) const { return ranges_[static_cast<std::size_t>(value)]; }

  int bits_;
  std::vector<ActivationRange> ranges_;  // that integers cover; by ValueId, as the next two
  std::vector<bool> is_rounded_;
  std::vector<bool> is_table_;  // rotary
  std::map<ValueId, ActivationRange> scores_;
};

// Of a plan that makes every value an integer; else nothing.
std::optional<StaticValues> make_static_values(const Model& model, const QuantizationPlan* plan);

}  // namespace diffulex_edge
