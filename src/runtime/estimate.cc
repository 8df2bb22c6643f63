#include "runtime/estimate.h"

#include <cmath>
#include <limits>
#include <vector>

namespace diffulex_edge {

Estimate ratio_estimate(std::span<const SequenceSum> sequences) {
  double sum = 0.0;
  double count = 0.0;
  for (const SequenceSum& sequence : sequences) {
    sum += sequence.sum;
    count += sequence.count;
  }
  Estimate estimate{.mean = sum / count};
  double squares = 0.0;
  for (const SequenceSum& sequence : sequences) {
    const double residual = sequence.sum - estimate.mean * sequence.count;
    squares += residual * residual;
  }
  const auto n = static_cast<double>(sequences.size());
  const double error = n < 2.0 ? std::numeric_limits<double>::infinity() : std::sqrt(n / (n - 1.0) * squares) / count;
  estimate.low = estimate.mean - 1.96 * error;
  estimate.high = estimate.mean + 1.96 * error;
  return estimate;
}

Estimate mean_estimate(std::span<const SequenceSum> sequences) {
  std::vector<SequenceSum> means;
  means.reserve(sequences.size());
  for (const SequenceSum& sequence : sequences) {
    means.push_back({.sum = sequence.sum / sequence.count, .count = 1.0});
  }
  return ratio_estimate(means);
}

}  // namespace diffulex_edge
