#include "runtime/input_statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/linear_algebra.h"

namespace diffulex_edge {

InputStatistics input_statistics(std::span<const float> x, std::int64_t columns, std::span<const float> weights,
                                 const RunControl& control) {
  const auto width = static_cast<std::size_t>(columns);
  const std::size_t tokens = x.size() / width;
  InputStatistics statistics{
      .columns = columns,
      .weight = weights.empty() ? static_cast<double>(tokens) : std::accumulate(weights.begin(), weights.end(), 0.0)};
  std::vector<double> sums(width);
  for (std::size_t token = 0; token < tokens; ++token) {
    const double weight = weights.empty() ? 1.0 : static_cast<double>(weights[token]);
    for (std::size_t i = 0; i < width; ++i) {
      sums[i] += weight * std::fabs(static_cast<double>(x[token * width + i]));
    }
  }
  for (const double sum : sums) {
    statistics.mean_abs.push_back(static_cast<float>(sum / statistics.weight));
  }
  std::vector<float> weighted;
  if (!weights.empty()) {
    weighted.assign(x.begin(), x.end());
    for (std::size_t token = 0; token < tokens; ++token) {
      const float root = std::sqrt(weights[token]);
      std::for_each_n(weighted.begin() + static_cast<std::ptrdiff_t>(token * width), width,
                      [=](float& value) { value *= root; });
    }
    x = weighted;
  }
  statistics.hessian.resize(width * width);
  multiply_tiled(Product::kTransposedFirst, columns, columns, static_cast<std::int64_t>(tokens), x.data(), x.data(),
                 statistics.hessian.data(), control);
  // Rounding differs between the two halves.
  for (std::size_t i = 0; i < width; ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      statistics.hessian[i * width + j] = statistics.hessian[j * width + i];
    }
  }
  return statistics;
}

InputStatistics scaled_statistics(const InputStatistics& statistics, std::span<const float> scales) {
  InputStatistics scaled = statistics;
  const auto width = static_cast<std::size_t>(statistics.columns);
  for (std::size_t i = 0; i < width; ++i) {
    scaled.mean_abs[i] /= scales[i];
    for (std::size_t j = 0; j < width; ++j) {
      scaled.hessian[i * width + j] /= scales[i] * scales[j];
    }
  }
  return scaled;
}

}  // namespace diffulex_edge
