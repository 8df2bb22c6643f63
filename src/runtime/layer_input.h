// What the linear layers of one input see in calibration, and how roundings of their weights are judged by it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "diffulex_edge/progress.h"
#include "quant/rounding.h"
#include "runtime/batch.h"

namespace diffulex_edge {

// Which tokens roundings are made with, and which they are judged by.
struct TokenSplit {
  std::vector<float> weights;          // of each token in the statistics, 0 where it is held out; empty: 1
  std::vector<std::int64_t> held_out;  // rows
};

class LayerInput {
 public:
  // `seen` is the input as earlier layers make it that are rounded already; `truth` what the float32 model has there,
  // or nothing. Copies what it needs. Error{kBadFile} where a value is not finite.
  LayerInput(const InputRows& seen, const std::optional<InputRows>& truth, const TokenSplit& split,
             const RunControl& control);

  // Each token counts by its weight over its |x|^2: errors are relative to the size of what they change.
  const InputStatistics& statistics() const { return statistics_; }

  // A quarter of the way from W to the weight W' that brings W' seen closest to W truth, by damped least squares:
  // W' = W + W D H^-1, with D the sum of (truth - seen) seen^T and H the statistics' Hessian, a twentieth of its mean
  // diagonal added (as in GPTAQ, Li et al. 2025, which makes up for earlier layers' errors while it rounds). Going all
  // the way fits the calibration's tokens better and others worse. Empty without a truth, or where H has no inverse.
  std::vector<float> correct(std::span<const float> weight, std::int64_t rows) const;

  // Of a weight in `format` made from `weight` times `scales` (empty: 1): the mean over held-out tokens of
  // |weight truth - rounded (seen / scales)|^2, each token's relative to its |truth|^2. The spans must outlive the
  // function.
  std::function<double(const RoundedWeight&)> judge(std::span<const float> weight, std::int64_t rows,
                                                    const WeightFormat& format, std::span<const float> scales) const;

 private:
  void prepare_correction(const InputRows& seen, const InputRows& truth, std::span<const float> weights);

  RunControl control_;
  std::int64_t columns_ = 0;
  InputStatistics statistics_;
  std::vector<float> correction_;  // D H^-1
  std::vector<float> seen_;        // held-out rows
  std::vector<float> truth_;
};

}  // namespace diffulex_edge
