#include "runtime/prediction.h"

#include <algorithm>
#include <cmath>

#include "runtime/kernels/activation_kernels.h"

namespace diffulex_edge {

Prediction predict(std::span<const float> logits) {
  const auto parts = kernels::exp_sum_row(logits.data(), logits.size());
  const auto best = std::ranges::find(logits, parts.max) - logits.begin();
  return {
      .log_sum_exp = static_cast<double>(parts.max) + std::log(parts.sum), .best = best, .confidence = 1.0 / parts.sum};
}

// sum p_r (log p_r - log p_m) = E_r[z_r - z_m] - lse_r + lse_m; rounding may take it a little below 0.
double kl_divergence(std::span<const float> reference, const Prediction& of_reference, std::span<const float> model,
                     const Prediction& of_model) {
  const double difference = kernels::expected_difference_row(reference.data(), model.data(), reference.size(),
                                                             static_cast<float>(of_reference.log_sum_exp));
  return std::max(0.0, difference - of_reference.log_sum_exp + of_model.log_sum_exp);
}

}  // namespace diffulex_edge
