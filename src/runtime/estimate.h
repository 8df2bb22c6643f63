// Means over sequences with confidence intervals.
#pragma once

#include <span>

#include "diffulex_edge/evaluation.h"

namespace diffulex_edge {

// Of one sequence.
struct SequenceSum {
  double sum = 0.0;
  double count = 0.0;
};

// sum(sum_i) / sum(count_i), with the 95% interval of a ratio estimator whose unit is the sequence (linearization;
// Cochran, "Sampling Techniques", 3rd ed., 6.3): tokens of one sequence are not independent. One sequence: an infinite
// interval.
Estimate ratio_estimate(std::span<const SequenceSum> sequences);
// The mean of sum_i / count_i.
Estimate mean_estimate(std::span<const SequenceSum> sequences);

}  // namespace diffulex_edge
