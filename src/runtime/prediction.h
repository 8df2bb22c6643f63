// What a model predicts at one position, and how far two models' predictions lie apart.
#pragma once

#include <cstdint>
#include <span>

namespace diffulex_edge {

struct Prediction {
  double log_sum_exp = 0.0;
  std::int64_t best = 0;
  double confidence = 0.0;  // probability of `best`
};

Prediction predict(std::span<const float> logits);

// KL(reference || model) in nats, at least 0.
double kl_divergence(std::span<const float> reference, const Prediction& of_reference, std::span<const float> model,
                     const Prediction& of_model);

}  // namespace diffulex_edge
