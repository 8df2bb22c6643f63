// One-dimensional k-means has an exact solution by dynamic programming: Wang and Song, "Ckmeans.1d.dp: Optimal k-means
// Clustering in One Dimension by Dynamic Programming" (2011); in O(k n log n) as the best starts of the last cluster
// ascend with its end: Grønlund et al., "Fast Exact k-Means, k-Medians and Bregman Divergence Clustering in 1D" (2017).
#include "quant/palette.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <string>

#include "diffulex_edge/error.h"
#include "quant/kernels/kernels.h"

namespace diffulex_edge {
namespace {

constexpr std::size_t kBins = std::size_t{1} << 16U;
constexpr std::uint32_t kNegative = 0x8000U;   // the first bin of negative weights
constexpr std::uint32_t kNotFinite = 0x7F80U;  // the first bin of infinities and NaN
constexpr double kLargestFactor = 0x1p31;

// The weights of one bin, as one point on the line.
struct Point {
  double value = 0.0;
  std::uint64_t weight = 0;
};

// Splits ascending points into clusters with the least sum of weight * (value - mean of the cluster)^2.
class Clustering {
 public:
  explicit Clustering(std::span<const Point> points) : points_(points), sums_(points.size() + 1) {
    // Sums of what lies between a position and zero: small values are not lost beside the large ones further out.
    const auto zero = static_cast<std::size_t>(
        std::ranges::find_if(points, [](const Point& point) { return point.value >= 0.0; }) - points.begin());
    for (std::size_t i = zero; i < points.size(); ++i) {
      sums_[i + 1] = {.first = sums_[i].first + first_moment(points[i]),
                      .second = sums_[i].second + second_moment(points[i])};
    }
    for (std::size_t i = zero; i > 0; --i) {
      sums_[i - 1] = {.first = sums_[i].first - first_moment(points[i - 1]),
                      .second = sums_[i].second - second_moment(points[i - 1])};
    }
    for (std::size_t i = 0; i < points.size(); ++i) {
      sums_[i + 1].weight = sums_[i].weight + points[i].weight;
    }
  }

  // Means of so many clusters, ascending. There are more points than that.
  std::vector<double> means(std::size_t clusters) {
    const std::size_t count = points_.size();
    costs_.reserve(count + 1);
    for (std::size_t end = 0; end <= count; ++end) {
      costs_.push_back(end == 0 ? 0.0 : cost(0, end));
    }
    // starts[k][end]: where the last of k + 2 clusters starts that hold the points before `end`.
    std::vector<std::vector<std::uint16_t>> starts(clusters - 1);
    std::vector<double> next(count + 1);
    for (std::size_t before = 1; before < clusters; ++before) {
      starts[before - 1].resize(count + 1);
      // The last step is only needed for all points.
      const std::size_t first = before + 1 < clusters ? before + 1 : count;
      extend(next, starts[before - 1], {.begin = first, .end = count + 1}, {.begin = before, .end = count});
      costs_.swap(next);
    }
    std::vector<double> result(clusters);
    std::size_t end = count;
    for (std::size_t cluster = clusters; cluster-- > 0;) {
      const std::size_t start = cluster == 0 ? 0 : starts[cluster - 1][end];
      result[cluster] = mean(start, end);
      end = start;
    }
    return result;
  }

 private:
  struct Sums {
    std::uint64_t weight = 0;
    double first = 0.0;   // of weight * value
    double second = 0.0;  // of weight * value^2
  };
  struct Range {
    std::size_t begin = 0;
    std::size_t end = 0;
  };

  static double first_moment(const Point& point) { return static_cast<double>(point.weight) * point.value; }
  static double second_moment(const Point& point) { return first_moment(point) * point.value; }

  // Of one cluster of the points [start, end). The weights of all points are less than 2^63.
  double cost(std::size_t start, std::size_t end) const {
    const Sums& from = sums_[start];
    const Sums& to = sums_[end];
    const auto weight = static_cast<double>(static_cast<std::int64_t>(to.weight - from.weight));
    const double first = to.first - from.first;
    return std::max(0.0, (to.second - from.second) - first * first / weight);
  }

  double mean(std::size_t start, std::size_t end) const {
    double sum = 0.0;
    for (const Point& point : points_.subspan(start, end - start)) {
      sum += first_moment(point);
    }
    return sum / static_cast<double>(sums_[end].weight - sums_[start].weight);
  }

  // next[end] = min over start of costs_[start] + cost(start, end), for all `ends`; the best starts lie in `within`.
  void extend(std::vector<double>& next, std::vector<std::uint16_t>& starts, Range ends, Range within) const {
    if (ends.begin == ends.end) {
      return;
    }
    const std::size_t end = ends.begin + (ends.end - ends.begin) / 2;
    double least = std::numeric_limits<double>::infinity();
    std::size_t best = within.begin;
    for (std::size_t start = within.begin; start < std::min(within.end, end); ++start) {
      const double sum = costs_[start] + cost(start, end);
      if (sum < least) {
        least = sum;
        best = start;
      }
    }
    next[end] = least;
    starts[end] = static_cast<std::uint16_t>(best);
    extend(next, starts, {.begin = ends.begin, .end = end}, {.begin = within.begin, .end = best + 1});
    extend(next, starts, {.begin = end + 1, .end = ends.end}, {.begin = best, .end = within.end});
  }

  std::span<const Point> points_;
  std::vector<Sums> sums_;     // of the points before a position
  std::vector<double> costs_;  // of the points before a position, in as many clusters as there are so far
};

float stored(float value, ElementType type) {
  if (type == ElementType::kF32) {
    return value;
  }
  if (type != ElementType::kF16) {
    throw Error(ErrorCode::kInternal, "palette", "no table is stored as " + to_string(type));
  }
  const float rounded = kernels::scalar::f16_to_f32_one(kernels::scalar::f32_to_f16_one(value));
  if (!std::isfinite(rounded)) {
    throw Error(ErrorCode::kInvalidArgument, "palette", std::to_string(value) + " does not fit in FP16 (65504)",
                "store the table in FP32");
  }
  return rounded;
}

// The largest float that is not above (a + b) / 2, so that a float is above one if it is above the other.
float midpoint_below(float a, float b) {
  const auto x = static_cast<double>(a);
  const auto y = static_cast<double>(b);
  const double sum = x + y;
  const double y_part = sum - x;
  const double lost = (x - (sum - y_part)) + (y - y_part);  // x + y = sum + lost
  const auto middle = static_cast<float>(sum / 2.0);
  const double above = 2.0 * static_cast<double>(middle) - sum;
  return above > 0.0 || (above == 0.0 && lost < 0.0) ? std::nextafter(middle, -std::numeric_limits<float>::infinity())
                                                     : middle;
}

// A weight's index is the number of thresholds below it.
std::vector<float> thresholds_of(const Palette& palette) {
  std::vector<float> thresholds(palette.size() - 1);
  for (std::size_t i = 0; i < thresholds.size(); ++i) {
    thresholds[i] = palette[i] < palette[i + 1] ? midpoint_below(palette[i], palette[i + 1])
                                                : std::numeric_limits<float>::infinity();
  }
  return thresholds;
}

int bits_of(const Palette& palette) { return std::countr_zero(palette.size()); }

constexpr std::size_t kBlock = 64;
using Indices = std::array<std::uint32_t, kBlock>;
constexpr std::size_t kMostCompared = 15;  // thresholds; beyond, searching is faster

// Written for the compiler to vectorize.
void find_indices(const float* values, std::span<const float> thresholds, Indices& indices) {
  if (thresholds.size() > kMostCompared) {
    for (std::size_t i = 0; i < kBlock; ++i) {
      indices[i] = static_cast<std::uint32_t>(std::ranges::lower_bound(thresholds, values[i]) - thresholds.begin());
    }
    return;
  }
  indices.fill(0);
  for (const float threshold : thresholds) {
    for (std::size_t i = 0; i < kBlock; ++i) {
      indices[i] += static_cast<std::uint32_t>(values[i] > threshold);
    }
  }
}

// Eight indices at a time, which take whole bytes whatever their bits. The processor is little-endian.
void pack_indices(const Indices& indices, int bits, std::byte* target) {
  const auto width = static_cast<unsigned>(bits);
  for (std::size_t i = 0; i < kBlock; i += 8, target += bits) {
    std::uint64_t eight = 0;
    for (unsigned j = 0; j < 8; ++j) {
      eight |= std::uint64_t{indices[i + j]} << (j * width);
    }
    std::memcpy(target, &eight, width);
  }
}

}  // namespace

PaletteHistogram::PaletteHistogram(std::span<const float> importance) : bins_(kBins) {
  for (std::size_t i = 0; i < importance.size(); ++i) {
    if (!std::isfinite(importance[i]) || importance[i] < 0.0F) {
      throw Error(ErrorCode::kInvalidArgument, "palette",
                  "importance of column " + std::to_string(i) + " is " + std::to_string(importance[i]) +
                      ", neither 0 nor a positive number");
    }
  }
  const float largest = importance.empty() ? 0.0F : *std::ranges::max_element(importance);
  if (largest == 0.0F) {
    return;
  }
  const double scale = kLargestFactor / static_cast<double>(largest);
  for (const float factor : importance) {
    factors_.push_back(static_cast<std::uint32_t>(std::llround(static_cast<double>(factor) * scale)));
  }
}

void PaletteHistogram::Bin::add(const Bin& other) {
  weight += other.weight;
  low += other.low;
  high += other.high + static_cast<std::uint64_t>(low < other.low);
}

double PaletteHistogram::Bin::mean(std::uint32_t upper_bits) const {
  const double sum = std::ldexp(static_cast<double>(high), 64) + static_cast<double>(low);
  const auto exponent = static_cast<int>((upper_bits >> 7U) & 0xFFU);
  const double rest = std::ldexp(sum / static_cast<double>(weight), std::max(exponent, 1) - 150);
  const auto first = static_cast<double>(std::bit_cast<float>(upper_bits << 16U));
  return first + std::copysign(rest, first);
}

void PaletteHistogram::count(std::uint64_t weights) {
  count_ += weights;
  if (count_ > std::numeric_limits<std::uint32_t>::max()) {
    throw Error(ErrorCode::kUnsupported, "palette", "more than 2^32 - 1 weights share a table");
  }
}

void PaletteHistogram::add(std::span<const float> rows) {
  count(rows.size());
  const auto add_one = [&](float weight, std::uint64_t factor) {
    const auto bits = std::bit_cast<std::uint32_t>(weight);
    bins_[bits >> 16U].add({.weight = factor, .low = factor * (bits & 0xFFFFU), .high = 0});
  };
  if (factors_.empty()) {
    for (const float weight : rows) {
      add_one(weight, 1);
    }
    return;
  }
  if (rows.size() % factors_.size() != 0) {
    throw Error(ErrorCode::kInvalidArgument, "palette",
                std::to_string(rows.size()) + " weights are no rows of " + std::to_string(factors_.size()));
  }
  for (std::size_t row = 0; row < rows.size(); row += factors_.size()) {
    for (std::size_t column = 0; column < factors_.size(); ++column) {
      add_one(rows[row + column], factors_[column]);
    }
  }
}

void PaletteHistogram::merge(const PaletteHistogram& other) {
  if (factors_ != other.factors_) {
    throw Error(ErrorCode::kInvalidArgument, "palette", "histograms of different importance can't be merged");
  }
  count(other.count_);
  for (std::size_t i = 0; i < kBins; ++i) {
    bins_[i].add(other.bins_[i]);
  }
}

Palette PaletteHistogram::fit(int bits, ElementType type) const {
  const std::size_t entries = std::size_t{1} << static_cast<unsigned>(bits);
  std::vector<Point> points;
  const auto add_point = [&](std::uint32_t upper_bits) {
    const Bin& bin = bins_[upper_bits];
    if (bin.weight > 0) {
      points.push_back({.value = bin.mean(upper_bits), .weight = bin.weight});
    }
  };
  for (std::uint32_t bin = kNotFinite; bin-- > 0;) {
    add_point(kNegative + bin);
  }
  for (std::uint32_t bin = 0; bin < kNotFinite; ++bin) {
    add_point(bin);
  }
  std::vector<double> means;
  if (points.size() > entries) {
    means = Clustering(points).means(entries);
  } else {
    std::ranges::transform(points, std::back_inserter(means), [](const Point& point) { return point.value; });
  }
  Palette palette(entries);
  std::size_t size = 0;  // 0 and -0, and what `type` can't tell apart, are one value
  for (const double mean : means) {
    const float value = stored(static_cast<float>(mean), type);
    if (size == 0 || value != palette[size - 1]) {
      palette[size] = value + 0.0F;  // -0.0 + 0.0 is 0.0
      ++size;
    }
  }
  std::fill(palette.begin() + static_cast<std::ptrdiff_t>(size), palette.end(), size == 0 ? 0.0F : palette[size - 1]);
  return palette;
}

void assign_palette(std::span<const float> values, const Palette& palette, std::span<std::byte> indices) {
  const std::vector<float> thresholds = thresholds_of(palette);
  const int bits = bits_of(palette);
  const auto block_bytes = kBlock / 8 * static_cast<std::size_t>(bits);
  Indices found{};
  std::byte* target = indices.data();
  std::size_t i = 0;
  for (; i + kBlock <= values.size(); i += kBlock, target += block_bytes) {
    find_indices(values.data() + i, thresholds, found);
    pack_indices(found, bits, target);
  }
  if (i == values.size()) {
    return;
  }
  // Behind the end, the lowest value stands for index 0.
  std::array<float, kBlock> rest{};
  rest.fill(palette.front());
  std::ranges::copy(values.subspan(i), rest.begin());
  find_indices(rest.data(), thresholds, found);
  std::array<std::byte, kBlock> packed{};
  pack_indices(found, bits, packed.data());
  std::copy_n(packed.begin(), ((values.size() - i) * static_cast<std::size_t>(bits) + 7) / 8, target);
}

void look_up_palette(std::span<const std::byte> indices, const Palette& palette, std::span<float> target) {
  const auto bits = static_cast<unsigned>(bits_of(palette));
  const std::byte* next = indices.data();
  std::uint32_t waiting = 0;  // bits that were read and not used
  unsigned count = 0;
  for (float& value : target) {
    if (count < bits) {
      waiting |= std::to_integer<std::uint32_t>(*next++) << count;
      count += 8;
    }
    value = palette[waiting & ((1U << bits) - 1U)];
    waiting >>= bits;
    count -= bits;
  }
}

}  // namespace diffulex_edge
