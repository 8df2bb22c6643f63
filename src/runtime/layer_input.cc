#include "runtime/layer_input.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "core/linear_algebra.h"
#include "diffulex_edge/error.h"
#include "quant/weight_decoder.h"
#include "runtime/input_statistics.h"

namespace diffulex_edge {
namespace {

constexpr double kDamping = 0.05;
constexpr float kCorrection = 0.25F;                             // the part of the way that correct() goes
constexpr std::int64_t kJudgedOutputs = std::int64_t{1} << 24U;  // held-out tokens x rows of the weight, at most

std::vector<float> rows_of(const InputRows& value, std::span<const std::int64_t> rows) {
  std::vector<float> copy;
  copy.reserve(rows.size() * static_cast<std::size_t>(value.width()));
  for (const std::int64_t row : rows) {
    const auto source = value.row(row);
    copy.insert(copy.end(), source.begin(), source.end());
  }
  return copy;
}

// Of each token: its share of `base` (empty: 1) over its mean square, with the mean of `base`. A token's error counts
// by its relative size: a few tokens with huge activations, such as a sequence's first one before o_proj and down_proj,
// would be all that the Hessian sees otherwise.
std::vector<float> relative_weights(std::span<const float> x, std::int64_t columns, std::span<const float> base) {
  const auto width = static_cast<std::size_t>(columns);
  std::vector<double> squares(x.size() / width);
  double mean = 0.0;
  for (std::size_t token = 0; token < squares.size(); ++token) {
    for (const float value : x.subspan(token * width, width)) {
      squares[token] += static_cast<double>(value) * static_cast<double>(value);
    }
    mean += squares[token] / static_cast<double>(squares.size());
  }
  constexpr double kLeast = 1e-6;  // of the mean: tokens that are all but zero do not count without limit
  std::vector<float> weights(squares.size(), 1.0F);
  if (mean == 0.0) {
    return weights;
  }
  double sum = 0.0;
  double wanted = 0.0;
  for (std::size_t token = 0; token < squares.size(); ++token) {
    const double share = base.empty() ? 1.0 : static_cast<double>(base[token]);
    wanted += share;
    squares[token] = share / std::max(squares[token], kLeast * mean);
    sum += squares[token];
  }
  for (std::size_t token = 0; token < squares.size(); ++token) {
    weights[token] = static_cast<float>(squares[token] * wanted / sum);
  }
  return weights;
}

}  // namespace

LayerInput::LayerInput(const InputRows& seen, const std::optional<InputRows>& truth, const TokenSplit& split,
                       const RunControl& control)
    : control_(control), columns_(seen.width()) {
  if (!std::ranges::all_of(seen.data(), [](float value) { return std::isfinite(value); })) {
    throw Error(ErrorCode::kBadFile, "calibration", "an activation is not finite", "the model's weights are broken");
  }
  const std::vector<float> weights = relative_weights(seen.data(), seen.width(), split.weights);
  statistics_ = input_statistics(seen.data(), seen.width(), weights, control);
  seen_ = rows_of(seen, split.held_out);
  truth_ = !truth ? seen_ : rows_of(*truth, split.held_out);
  if (truth) {
    prepare_correction(seen, *truth, weights);
  }
}

void LayerInput::prepare_correction(const InputRows& seen, const InputRows& truth, std::span<const float> weights) {
  const auto width = static_cast<std::size_t>(columns_);
  std::vector<float> difference(seen.data().size());
  bool differs = false;
  for (std::size_t i = 0; i < difference.size(); ++i) {
    difference[i] = weights[i / width] * (truth.data()[i] - seen.data()[i]);
    differs = differs || difference[i] != 0.0F;
  }
  if (!differs) {
    return;
  }
  std::vector<double> inverse(statistics_.hessian.begin(), statistics_.hessian.end());
  double diagonal = 0.0;
  for (std::size_t i = 0; i < width; ++i) {
    diagonal += inverse[i * width + i];
  }
  for (std::size_t i = 0; i < width; ++i) {
    inverse[i * width + i] += kDamping * diagonal / static_cast<double>(width);
  }
  if (!invert_positive_definite(inverse, columns_)) {
    return;
  }
  std::vector<float> cross(width * width);
  multiply_tiled(Product::kTransposedFirst, columns_, columns_, seen.rows(), difference.data(), seen.data().data(),
                 cross.data(), control_);
  const std::vector<float> narrow(inverse.begin(), inverse.end());
  correction_.resize(width * width);
  multiply_tiled(Product::kPlain, columns_, columns_, columns_, cross.data(), narrow.data(), correction_.data(),
                 control_);
}

std::vector<float> LayerInput::correct(std::span<const float> weight, std::int64_t rows) const {
  if (correction_.empty()) {
    return {};
  }
  std::vector<float> corrected(weight.size());
  multiply_tiled(Product::kPlain, rows, columns_, columns_, weight.data(), correction_.data(), corrected.data(),
                 control_);
  std::ranges::transform(corrected, weight, corrected.begin(),
                         [](float change, float value) { return value + kCorrection * change; });
  const bool finite = std::ranges::all_of(corrected, [](float value) { return std::isfinite(value); });
  return finite ? corrected : std::vector<float>();
}

std::function<double(const RoundedWeight&)> LayerInput::judge(std::span<const float> weight, std::int64_t rows,
                                                              const WeightFormat& format,
                                                              std::span<const float> scales) const {
  const std::int64_t held_out = static_cast<std::int64_t>(seen_.size()) / columns_;
  const std::int64_t tokens =
      std::clamp<std::int64_t>(kJudgedOutputs / rows, std::min<std::int64_t>(held_out, 64), held_out);
  auto wanted = std::make_shared<std::vector<float>>(static_cast<std::size_t>(tokens * rows));
  multiply_tiled(Product::kTransposed, tokens, rows, columns_, truth_.data(), weight.data(), wanted->data(), control_);
  const auto seen_values = static_cast<std::size_t>(tokens * columns_);
  const std::vector<float> weights = relative_weights(std::span(truth_).first(seen_values), columns_, {});
  return [=, this](const RoundedWeight& rounded) {
    std::vector<float> decoded(static_cast<std::size_t>(rows * columns_));
    decode_rows(format, rounded.values, rounded.scales, rows, columns_, decoded);
    if (!scales.empty()) {
      unscale_columns(decoded, rows, scales);
    }
    std::vector<float> outputs(wanted->size());
    multiply_tiled(Product::kTransposed, tokens, rows, columns_, seen_.data(), decoded.data(), outputs.data(),
                   control_);
    double error = 0.0;
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      const double difference = static_cast<double>(outputs[i]) - static_cast<double>((*wanted)[i]);
      error += static_cast<double>(weights[i / static_cast<std::size_t>(rows)]) * difference * difference;
    }
    return error / static_cast<double>(tokens);
  };
}

}  // namespace diffulex_edge
