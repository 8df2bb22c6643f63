// Rounding methods that choose a weight's integers and scales better than round-to-nearest, for one layer in memory.
// docs/QUANTIZATION.md has the formulas and their sources.
//
// Weights are [rows = out_features, columns = in_features] float32, row-major; formats are quantized ones. Results do
// not depend on the number of threads. Errors: kInvalidArgument for a weight that is not finite or statistics of
// another layer, kCancelled. Memory is stated beside the layer's own float32 weight and its statistics.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "diffulex_edge/progress.h"
#include "diffulex_edge/quantization.h"
#include "diffulex_edge/weight_format.h"

namespace diffulex_edge {

// What calibration saw of a linear layer's input x, over all its tokens (weighted, if it weighs them).
struct InputStatistics {
  std::int64_t columns = 0;
  double weight = 0.0;          // sum of the tokens' weights
  std::vector<float> hessian;   // [columns, columns]: sum of weight * x x^T; symmetric
  std::vector<float> mean_abs;  // [columns]: weighted mean of |x|
};

// A weight matrix [rows, columns] in a quantized format, laid out as encode_rows writes it.
struct RoundedWeight {
  std::vector<std::byte> values;
  std::vector<std::byte> scales;
  RoundingMethod method = RoundingMethod::RTN;  // that made it
  // GPTQ: the Hessian could not be factorized however it was damped, and the scales' own method rounded the weight.
  bool fell_back = false;
};

// The mean of x_j^2 for each column j: how much an error in that column of the weight matters.
std::vector<float> input_importance(const InputStatistics& statistics);

// By RTN, MSE or HQQ. `importance` is empty or has a factor for each column, which weighs MSE's squared errors. Memory:
// the result.
RoundedWeight round_weight(std::span<const float> weight, std::int64_t rows, std::int64_t columns,
                           const WeightFormat& format, RoundingMethod method, std::span<const float> importance,
                           const RunControl& control);

struct GptqOptions {
  // Of the mean of the Hessian's diagonal, added to the diagonal; ten times more, up to `most_damping`, where the
  // factorization fails.
  double damping = 0.01;
  double most_damping = 1.0;
  // Rounds the columns in descending order of the Hessian's diagonal.
  bool act_order = false;
  // Scales of groups come from the original weights, as they always do with act_order; otherwise from the weights as
  // the rounding of earlier groups has changed them.
  bool static_groups = false;
  RoundingMethod scale_method = RoundingMethod::MSE;  // RTN, MSE or HQQ
  bool weigh_scales = true;                           // MSE weighted by the Hessian's diagonal
  int refine_passes = 0;                              // of refine_rounding afterwards
};

// GPTQ. Memory: 12 bytes * columns^2 while the Hessian is factorized, 4 bytes * columns^2 after that, and for each
// thread 64 rows in float32.
RoundedWeight round_gptq(std::span<const float> weight, std::int64_t rows, std::int64_t columns,
                         const WeightFormat& format, const InputStatistics& statistics, const GptqOptions& options,
                         const RunControl& control);

// Lowers the output error of a rounded weight by coordinate descent: each integer, then each scale, takes its best
// value with all others fixed. Stops before `passes` where nothing changes. Memory: 5 bytes a weight, and for each
// thread 192 rows in float32.
void refine_rounding(std::span<const float> weight, std::int64_t rows, std::int64_t columns, const WeightFormat& format,
                     const InputStatistics& statistics, int passes, RoundedWeight& rounded, const RunControl& control);

// What the rounding does to the layer's output: the mean over the calibration's tokens of |(W - decoded) x|^2, which is
// tr(E H E^T) / weight with E = W - decoded and the statistics' Hessian.
double output_error(std::span<const float> weight, std::span<const float> decoded, std::int64_t rows,
                    std::int64_t columns, const InputStatistics& statistics, const RunControl& control);
double output_error(std::span<const float> weight, const RoundedWeight& rounded, std::int64_t rows,
                    std::int64_t columns, const WeightFormat& format, const InputStatistics& statistics,
                    const RunControl& control);

struct AutoRounding {
  RoundedWeight rounded;
  double error = 0.0;          // by the judge
  double nearest_error = 0.0;  // that of round-to-nearest; never less than `error`
};

struct AutoOptions {
  // What a candidate costs, for instance on data that it was not made with. Default: output_error.
  std::function<double(const RoundedWeight&)> judge;
  // Another weight that GPTQ tries to come close to as well, such as one that makes up for errors of earlier layers;
  // empty: none.
  std::span<const float> corrected;
};

// The candidate that the judge likes best among RTN, MSE, MSE weighted by importance, HQQ, and GPTQ with act_order, of
// the weight and of the corrected one, each as it is and refined. Memory: that of round_gptq, and three rounded
// weights.
AutoRounding auto_round(std::span<const float> weight, std::int64_t rows, std::int64_t columns,
                        const WeightFormat& format, const InputStatistics& statistics, const AutoOptions& options,
                        const RunControl& control);

// --- AWQ: columns of weights that share an input are multiplied by s before rounding, and the input by 1 / s, which
// the caller folds into what comes before.

struct AwqWeight {
  std::span<const float> weight;
  std::int64_t rows = 0;
  WeightFormat format;
};

struct AwqOptions {
  int grid = 20;                                // exponents 0, 1 / grid, ... below 1
  RoundingMethod method = RoundingMethod::RTN;  // with which candidates are rounded: RTN, MSE or HQQ
  std::int64_t most_rows = 512;                 // of each weight, evenly spread, that are measured
};

struct AwqScales {
  std::vector<float> scales;  // [columns], all 1 where no exponent is better than 0
  double exponent = 0.0;
  double error = 0.0;           // output_error of the rows measured
  double unscaled_error = 0.0;  // the same for exponent 0; never less than `error`
};

// Memory: 12 bytes a measured weight, and for each thread 128 rows in float32.
AwqScales search_awq_scales(std::span<const AwqWeight> weights, std::int64_t columns, const InputStatistics& statistics,
                            const AwqOptions& options, const RunControl& control);

// weight[row, j] *= scales[j], or divided by it.
void scale_columns(std::span<float> weight, std::int64_t rows, std::span<const float> scales);
void unscale_columns(std::span<float> weight, std::int64_t rows, std::span<const float> scales);

}  // namespace diffulex_edge
