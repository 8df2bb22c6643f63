// Coordinate descent on the output error of a rounded weight.
//
// With E = W - Q diag(s) and R = E H, changing one integer by d changes e h e^T by -2 d s R_j + d^2 s^2 H_jj, and
// changing the scale of integers q by d changes it by -2 d <q, R> + d^2 q H q^T. Both are minimized in closed form and
// rounded to what can be stored.

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/linear_algebra.h"
#include "core/parallel.h"
#include "quant/integer_weight.h"
#include "quant/rounding.h"
#include "quant/scale_search.h"

namespace diffulex_edge {
namespace {

constexpr std::int64_t kRefineTileRows = 64;
constexpr std::int64_t kRefineBlock = 128;

struct RefineWorker {
  std::vector<float> gradient;         // [tile, columns]: R
  std::vector<float> change;           // [tile, columns]: of E; R before it is made
  std::vector<float> weight_gradient;  // [tile, columns]: W H, where a row has one scale
  std::vector<float> block_gradient;   // of one row
};

class Refiner {
 public:
  Refiner(std::span<const float> weight, const WeightFormat& format, const InputStatistics& statistics,
          IntegerWeight& integers)
      : weight_(weight),
        hessian_(statistics.hessian.data()),
        grid_(integer_grid(format)),
        integers_(integers),
        columns_(integers.columns),
        block_(integers.scales_per_row() == 1 ? kRefineBlock : std::max(kRefineBlock, integers.run)) {}

  void refine_tile(std::int64_t first, std::int64_t rows, int passes, RefineWorker& worker) const {
    start(first, rows, worker);
    for (int pass = 0; pass < passes; ++pass) {
      bool changed = false;
      if (integers_.scales_per_row() == 1) {
        for (std::int64_t r = 0; r < rows; ++r) {
          changed |=
              refit_row(first + r, worker.weight_gradient.data() + r * columns_, worker.gradient.data() + r * columns_);
        }
      }
      for (std::int64_t begin = 0; begin < columns_; begin += block_) {
        changed |= refine_block(first, rows, begin, std::min(block_, columns_ - begin), worker);
      }
      if (!changed) {
        return;
      }
    }
  }

 private:
  void start(std::int64_t first, std::int64_t rows, RefineWorker& worker) const {
    const auto size = static_cast<std::size_t>(rows * columns_);
    worker.gradient.resize(size);
    worker.change.resize(static_cast<std::size_t>(rows * std::max(columns_, block_)));
    worker.block_gradient.resize(static_cast<std::size_t>(block_));
    const float* weights = weight_.data() + first * columns_;
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int8_t* q = integers_.row(first + r);
      const float* scales = integers_.row_scales(first + r);
      for (std::int64_t j = 0; j < columns_; ++j) {
        worker.change[static_cast<std::size_t>(r * columns_ + j)] =
            weights[r * columns_ + j] - static_cast<float>(q[j]) * scales[j / integers_.run];
      }
    }
    const Gemm whole{.m = rows, .n = columns_, .k = columns_};
    multiply(whole, worker.change.data(), columns_, hessian_, columns_, worker.gradient.data(), columns_);
    if (integers_.scales_per_row() == 1) {
      worker.weight_gradient.resize(size);
      multiply(whole, weights, columns_, hessian_, columns_, worker.weight_gradient.data(), columns_);
    }
  }

  // The best storable scale near scale + slope / curvature, if it lowers the error.
  bool better_scale(float scale, double slope, double curvature, float& chosen) const {
    if (!(curvature > 0.0)) {
      return false;
    }
    chosen = storable_scale(static_cast<float>(static_cast<double>(scale) + slope / curvature), grid_.scale_type);
    const double d = static_cast<double>(chosen) - static_cast<double>(scale);
    return d * (d * curvature - 2.0 * slope) < 0.0;
  }

  // One scale for the row: Q H = (W H - R) / s, so that nothing has to be multiplied.
  bool refit_row(std::int64_t row, const float* weight_gradient, float* gradient) const {
    const std::int8_t* q = integers_.row(row);
    float& scale = *integers_.row_scales(row);
    double slope = 0.0;
    double curvature = 0.0;
    for (std::int64_t j = 0; j < columns_; ++j) {
      slope += static_cast<double>(q[j]) * static_cast<double>(gradient[j]);
      curvature += static_cast<double>(q[j]) * static_cast<double>(weight_gradient[j] - gradient[j]);
    }
    curvature /= static_cast<double>(scale);
    float chosen = scale;
    if (!better_scale(scale, slope, curvature, chosen)) {
      return false;
    }
    const float part = (chosen - scale) / scale;
    for (std::int64_t j = 0; j < columns_; ++j) {
      gradient[j] -= part * (weight_gradient[j] - gradient[j]);
    }
    scale = chosen;
    return true;
  }

  bool refine_block(std::int64_t first, std::int64_t rows, std::int64_t begin, std::int64_t count,
                    RefineWorker& worker) const {
    bool changed = false;
    std::fill_n(worker.change.begin(), rows * block_, 0.0F);
    for (std::int64_t r = 0; r < rows; ++r) {
      float* gradient = worker.block_gradient.data();
      std::copy_n(worker.gradient.data() + r * columns_ + begin, count, gradient);
      float* change = worker.change.data() + r * block_;
      changed |= refine_integers(first + r, begin, count, gradient, change);
      if (integers_.scales_per_row() > 1) {
        changed |= refit_groups(first + r, begin, count, gradient, change);
      }
    }
    if (changed) {
      multiply({.m = rows, .n = columns_, .k = count, .beta = 1.0F}, worker.change.data(), block_,
               hessian_ + begin * columns_, columns_, worker.gradient.data(), columns_);
    }
    return changed;
  }

  bool refine_integers(std::int64_t row, std::int64_t begin, std::int64_t count, float* gradient, float* change) const {
    std::int8_t* q = integers_.row(row) + begin;
    const float* scales = integers_.row_scales(row);
    bool changed = false;
    for (std::int64_t j = 0; j < count; ++j) {
      const float* h = hessian_ + (begin + j) * columns_ + begin;
      const float scale = scales[(begin + j) / integers_.run];
      if (!(h[j] > 0.0F)) {
        continue;
      }
      const auto old = static_cast<float>(q[j]);
      const float best = std::clamp(std::nearbyint(old + gradient[j] / (h[j] * scale)), grid_.low, grid_.high);
      if (best != old) {
        add_change(j, (old - best) * scale, h, count, gradient, change);
        q[j] = static_cast<std::int8_t>(best);
        changed = true;
      }
    }
    return changed;
  }

  bool refit_groups(std::int64_t row, std::int64_t begin, std::int64_t count, float* gradient, float* change) const {
    bool changed = false;
    for (std::int64_t group = 0; group < count; group += integers_.run) {
      const std::int8_t* q = integers_.row(row) + begin;
      float& scale = integers_.row_scales(row)[(begin + group) / integers_.run];
      double slope = 0.0;
      double curvature = 0.0;
      for (std::int64_t j = group; j < group + integers_.run; ++j) {
        const float* h = hessian_ + (begin + j) * columns_ + begin;
        float sum = 0.0F;
        for (std::int64_t k = group; k < group + integers_.run; ++k) {
          sum += static_cast<float>(q[k]) * h[k];
        }
        slope += static_cast<double>(q[j]) * static_cast<double>(gradient[j]);
        curvature += static_cast<double>(q[j]) * static_cast<double>(sum);
      }
      float chosen = scale;
      if (!better_scale(scale, slope, curvature, chosen)) {
        continue;
      }
      for (std::int64_t j = group; j < group + integers_.run; ++j) {
        if (q[j] != 0) {
          add_change(j, (scale - chosen) * static_cast<float>(q[j]), hessian_ + (begin + j) * columns_ + begin, count,
                     gradient, change);
        }
      }
      scale = chosen;
      changed = true;
    }
    return changed;
  }

  static void add_change(std::int64_t j, float value, const float* h, std::int64_t count, float* gradient,
                         float* change) {
    change[j] += value;
    for (std::int64_t k = 0; k < count; ++k) {
      gradient[k] += value * h[k];
    }
  }

  std::span<const float> weight_;
  const float* hessian_;
  IntegerGrid grid_;
  IntegerWeight& integers_;
  std::int64_t columns_;
  std::int64_t block_;
};

}  // namespace

void refine_rounding(std::span<const float> weight, std::int64_t rows, std::int64_t columns, const WeightFormat& format,
                     const InputStatistics& statistics, int passes, RoundedWeight& rounded, const RunControl& control) {
  check_layer(weight, rows, columns, &statistics);
  IntegerWeight integers = unpack(rounded, rows, columns, format);
  const Refiner refiner(weight, format, statistics, integers);
  std::vector<RefineWorker> workers(thread_count(control));
  parallel_for(static_cast<std::size_t>((rows + kRefineTileRows - 1) / kRefineTileRows), control,
               [&](std::size_t tile, std::size_t worker) {
                 const std::int64_t first = static_cast<std::int64_t>(tile) * kRefineTileRows;
                 refiner.refine_tile(first, std::min(kRefineTileRows, rows - first), passes, workers[worker]);
               });
  pack(integers, format, rounded);
}

}  // namespace diffulex_edge
