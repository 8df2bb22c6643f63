#include "runtime/observer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include "diffulex_edge/error.h"
#include "quant/affine_scale.h"

namespace diffulex_edge {
namespace {

constexpr std::size_t kBins = 4096;

constexpr std::array kObserverNames = {
    std::pair{Observer::MIN_MAX, std::string_view("min_max")},
    std::pair{Observer::PERCENTILE, std::string_view("percentile")},
    std::pair{Observer::MSE, std::string_view("mse")},
};

struct Histogram {
  ActivationRange range;
  double width = 0.0;  // of a bin
  std::vector<double> counts;

  double center(std::size_t bin) const { return range.min + (static_cast<double>(bin) + 0.5) * width; }
};

Histogram count(std::span<const float> values, const ActivationRange& range) {
  Histogram histogram{.range = range,
                      .width = (static_cast<double>(range.max) - range.min) / kBins,
                      .counts = std::vector<double>(kBins)};
  for (const float value : values) {
    const auto bin = static_cast<std::size_t>((static_cast<double>(value) - range.min) / histogram.width);
    histogram.counts[std::min(bin, kBins - 1)] += 1.0;
  }
  return histogram;
}

// Mean squared error of the histogram's values as 8-bit integers over `range`.
double squared_error(const Histogram& histogram, const ActivationRange& range) {
  const AffineScale affine = affine_scale(range, 8);
  const double scale = affine.scale;
  double error = 0.0;
  for (std::size_t bin = 0; bin < kBins; ++bin) {
    if (histogram.counts[bin] == 0.0) {
      continue;
    }
    const double value = histogram.center(bin);
    const double q = std::clamp(std::nearbyint(value / scale) + affine.zero_point, -128.0, 127.0);
    const double difference = (q - affine.zero_point) * scale - value;
    // Rounding inside a bin is what rounding does everywhere: uniform within a step.
    error += histogram.counts[bin] * difference * difference;
  }
  return error;
}

// Shrinks each end by itself, as far as it lowers the error.
ActivationRange least_squares_range(std::span<const float> values, const ActivationRange& full) {
  const Histogram histogram = count(values, full);
  ActivationRange best = full;
  double least = squared_error(histogram, full);
  for (int step = 1; step < 100; ++step) {
    const auto share = static_cast<float>(100 - step) / 100.0F;
    for (const ActivationRange& candidate :
         {ActivationRange{full.min * share, full.max * share}, ActivationRange{best.min, full.max * share},
          ActivationRange{full.min * share, best.max}}) {
      const double error = squared_error(histogram, candidate);
      if (error < least) {
        least = error;
        best = candidate;
      }
    }
  }
  return best;
}

// The ends that leave out (100 - percentile)/2 percent of the values on each side.
ActivationRange percentile_range(std::span<const float> values, double percentile) {
  std::vector<float> copy(values.begin(), values.end());
  const auto at = [&](double share) {
    const auto index = static_cast<std::ptrdiff_t>(std::lround(share * static_cast<double>(copy.size() - 1)));
    std::ranges::nth_element(copy, copy.begin() + index);
    return copy[static_cast<std::size_t>(index)];
  };
  const double outside = (100.0 - percentile) / 200.0;
  return {.min = std::min(0.0F, at(outside)), .max = std::max(0.0F, at(1.0 - outside))};
}

}  // namespace

std::string_view to_string(Observer observer) {
  return std::ranges::find(kObserverNames, observer, &std::pair<Observer, std::string_view>::first)->second;
}

Observer parse_observer(std::string_view text) {
  const auto* found = std::ranges::find(kObserverNames, text, &std::pair<Observer, std::string_view>::second);
  if (found == kObserverNames.end()) {
    throw Error(ErrorCode::kInvalidArgument, "observer",
                "'" + std::string(text) + "' is not one of min_max, percentile, mse");
  }
  return found->first;
}

ActivationRange observe(std::span<const float> values, Observer observer, double percentile) {
  ActivationRange range;
  bool finite = true;
  for (const float value : values) {
    finite = finite && std::isfinite(value);
    range.min = std::min(range.min, value);
    range.max = std::max(range.max, value);
  }
  if (!finite) {
    throw Error(ErrorCode::kBadFile, "calibration", "an activation is not finite: the model's weights are broken");
  }
  if (range.min == range.max || observer == Observer::MIN_MAX) {
    return range;
  }
  return observer == Observer::PERCENTILE ? percentile_range(values, percentile) : least_squares_range(values, range);
}

}  // namespace diffulex_edge
