#include "diffusion/sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>

#include "runtime/kernels/activation_kernels.h"

namespace diffulex_edge {
namespace {

// The first of equal ones.
std::int64_t most_probable(std::span<const float> logits) { return std::ranges::max_element(logits) - logits.begin(); }

double probability(std::span<const float> logits, std::int64_t token) {
  const kernels::LogSumExpParts parts = kernels::exp_sum_row(logits.data(), logits.size());
  const float logit = logits[static_cast<std::size_t>(token)];
  return std::exp(static_cast<double>(logit) - static_cast<double>(parts.max)) / parts.sum;
}

void set_all(std::span<float> logits, std::span<const std::int64_t> tokens, float value) {
  for (const std::int64_t token : tokens) {
    if (token >= 0 && std::cmp_less(token, logits.size())) {
      logits[static_cast<std::size_t>(token)] = value;
    }
  }
}

// Those below the k-th largest go; equal ones stay.
void keep_top_k(std::span<float> logits, std::int64_t k) {
  if (k <= 0 || std::cmp_greater_equal(k, logits.size())) {
    return;
  }
  std::vector<float> sorted(logits.begin(), logits.end());
  std::ranges::nth_element(sorted, sorted.begin() + (k - 1), std::greater<>());
  const float least = sorted[static_cast<std::size_t>(k - 1)];
  std::ranges::replace_if(logits, [least](float x) { return x < least; }, kNever);
}

// The most probable tokens until they have a probability of more than p together, the one that passes it included.
void keep_top_p(std::span<float> logits, double p) {
  if (p >= 1.0) {
    return;
  }
  const kernels::LogSumExpParts parts = kernels::exp_sum_row(logits.data(), logits.size());
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > kNever) {
      order.push_back(i);
    }
  }
  const auto is_worse = [&](std::size_t a, std::size_t b) {
    return logits[a] < logits[b] || (logits[a] == logits[b] && a > b);
  };
  std::ranges::make_heap(order, is_worse);
  double sum = 0.0;
  auto end = order.end();
  while (end != order.begin() && sum <= p) {
    std::pop_heap(order.begin(), end, is_worse);
    --end;
    sum += std::exp(static_cast<double>(logits[*end]) - static_cast<double>(parts.max)) / parts.sum;
  }
  std::for_each(order.begin(), end, [&](std::size_t i) { logits[i] = kNever; });
}

void keep_min_p(std::span<float> logits, double p) {
  if (p <= 0.0) {
    return;
  }
  const float least = *std::ranges::max_element(logits) + static_cast<float>(std::log(p));
  std::ranges::replace_if(logits, [least](float x) { return x < least; }, kNever);
}

std::int64_t draw(std::span<const float> logits, Random& random) {
  const kernels::LogSumExpParts parts = kernels::exp_sum_row(logits.data(), logits.size());
  double left = random.uniform() * parts.sum;
  std::int64_t last = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > kNever) {
      last = static_cast<std::int64_t>(i);
      left -= std::exp(static_cast<double>(logits[i]) - static_cast<double>(parts.max));
      if (left < 0.0) {
        break;
      }
    }
  }
  return last;
}

std::int64_t draw_with_gumbel_noise(std::span<const float> logits, double temperature, Random& random) {
  double best = -std::numeric_limits<double>::infinity();
  std::int64_t token = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double u = random.uniform();
    if (logits[i] > kNever) {
      const double noisy = static_cast<double>(logits[i]) - temperature * std::log(-std::log(u));
      if (noisy > best) {
        best = noisy;
        token = static_cast<std::int64_t>(i);
      }
    }
  }
  return token;
}

double margin(std::span<const float> logits) {
  const kernels::LogSumExpParts parts = kernels::exp_sum_row(logits.data(), logits.size());
  float second = kNever;
  bool has_first = false;
  for (const float x : logits) {
    if (x == parts.max && !has_first) {
      has_first = true;
    } else {
      second = std::max(second, x);
    }
  }
  return (1.0 - std::exp(static_cast<double>(second) - static_cast<double>(parts.max))) / parts.sum;
}

// sum of p log(p + 1e-10), as Dream writes it.
double negative_entropy(std::span<const float> logits) {
  const kernels::LogSumExpParts parts = kernels::exp_sum_row(logits.data(), logits.size());
  double sum = 0.0;
  for (const float x : logits) {
    const double p = std::exp(static_cast<double>(x) - static_cast<double>(parts.max)) / parts.sum;
    sum += p * std::log(p + 1e-10);
  }
  return sum;
}

double entropy(std::span<const float> logits) {
  const kernels::LogSumExpParts parts = kernels::exp_sum_row(logits.data(), logits.size());
  const double log_sum = std::log(parts.sum);
  double sum = 0.0;
  for (const float x : logits) {
    if (x > kNever) {
      const double log_p = static_cast<double>(x) - static_cast<double>(parts.max) - log_sum;
      sum -= std::exp(log_p) * log_p;
    }
  }
  return sum;
}

}  // namespace

void DiffusionSampler::filter(std::span<float> logits) const {
  if (settings_.top_p_first) {
    keep_top_p(logits, settings_.top_p);
    keep_top_k(logits, settings_.top_k);
  } else {
    keep_top_k(logits, settings_.top_k);
    keep_top_p(logits, settings_.top_p);
  }
  keep_min_p(logits, settings_.min_p);
}

double DiffusionSampler::confidence_of(std::span<float> logits, std::int64_t token, Random& random) const {
  switch (settings_.confidence) {
    case Confidence::kProbability: {
      set_all(logits, settings_.last, kNever);
      const bool is_last = std::ranges::find(settings_.last, token) != settings_.last.end();
      return is_last ? 0.0 : probability(logits, token);
    }
    case Confidence::kMargin:
      return margin(logits);
    case Confidence::kEntropy:
      return negative_entropy(logits);
    case Confidence::kRandom:
      break;
  }
  return random.uniform();
}

std::int64_t DiffusionSampler::choose(std::span<const float> logits, Random& random) const {
  if (settings_.temperature <= 0.0) {
    return most_probable(logits);
  }
  return settings_.gumbel ? draw_with_gumbel_noise(logits, settings_.temperature, random) : draw(logits, random);
}

SampleOutput DiffusionSampler::greedy(std::span<float> logits) const {
  set_all(logits, settings_.never, kNever);
  set_all(logits, std::span(&settings_.mask, 1), kNever);
  return {.token = most_probable(logits), .confidence = 1.0};
}

SampleOutput DiffusionSampler::sample(std::span<float> logits, std::span<const std::int64_t> present,
                                      Random random) const {
  if (settings_.repetition_penalty != 1.0) {
    const auto penalty = static_cast<float>(settings_.repetition_penalty);
    for (const std::int64_t token : present) {
      float& logit = logits[static_cast<std::size_t>(token)];
      logit = logit > 0.0F ? logit / penalty : logit * penalty;
    }
  }
  set_all(logits, settings_.never, kNever);
  const auto divide = [&] {
    if (settings_.temperature > 0.0 && !settings_.gumbel) {
      const auto temperature = static_cast<float>(settings_.temperature);
      std::ranges::for_each(logits, [temperature](float& x) { x /= temperature; });
    }
  };
  SampleOutput output;
  if (settings_.temperature_last) {
    output.entropy = settings_.wants_entropy ? entropy(logits) : 0.0;
  } else {
    divide();
  }
  std::vector<float> unfiltered;
  if (settings_.confidence_before_filters) {
    unfiltered.assign(logits.begin(), logits.end());
  }
  const bool has_mask = settings_.mask >= 0 && std::cmp_less(settings_.mask, logits.size());
  const float mask_logit = has_mask ? logits[static_cast<std::size_t>(settings_.mask)] : 0.0F;
  if (has_mask) {
    logits[static_cast<std::size_t>(settings_.mask)] = kNever;
  }
  filter(logits);
  if (settings_.temperature_last) {
    divide();
  }
  output.token = choose(logits, random);
  if (has_mask && !has_filters()) {
    logits[static_cast<std::size_t>(settings_.mask)] = mask_logit;
  }
  if (settings_.wants_entropy && !settings_.temperature_last) {
    output.entropy = entropy(logits);
  }
  output.confidence = confidence_of(unfiltered.empty() ? logits : std::span(unfiltered), output.token, random);
  return output;
}

}  // namespace diffulex_edge
