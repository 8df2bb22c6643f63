#include "diffusion/remasking.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace diffulex_edge {
namespace {

// The most confident first.
std::vector<std::size_t> by_confidence(std::span<const SampleOutput> samples) {
  std::vector<std::size_t> order(samples.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, [&](std::size_t a, std::size_t b) {
    return samples[a].confidence > samples[b].confidence || (samples[a].confidence == samples[b].confidence && a < b);
  });
  return order;
}

std::vector<std::size_t> first(std::vector<std::size_t> order, std::size_t count) {
  order.resize(std::min(order.size(), count));
  return order;
}

// Adding Gumbel noise and taking the largest draws from a softmax without putting back.
std::vector<std::size_t> drawn_by_confidence(std::span<const SampleOutput> samples, double temperature,
                                             Random& random) {
  std::vector<SampleOutput> noisy(samples.begin(), samples.end());
  for (SampleOutput& sample : noisy) {
    sample.confidence = sample.confidence / temperature - std::log(-std::log(random.uniform()));
  }
  return by_confidence(noisy);
}

// The first, and those behind it while is_taken(place in the order), `most` in all.
template <typename IsTaken>
std::vector<std::size_t> best_and(const std::vector<std::size_t>& order, const IsTaken& is_taken,
                                  std::optional<std::int64_t> most = {}) {
  const std::size_t limit = most ? std::min(order.size(), static_cast<std::size_t>(*most)) : order.size();
  std::size_t count = std::min<std::size_t>(1, limit);
  while (count < limit && is_taken(count)) {
    ++count;
  }
  return first(order, count);
}

std::vector<std::size_t> above_threshold(std::span<const SampleOutput> samples, double threshold, std::size_t share) {
  const std::vector<std::size_t> order = by_confidence(samples);
  const auto above = static_cast<std::size_t>(
      std::ranges::count_if(samples, [&](const SampleOutput& sample) { return sample.confidence > threshold; }));
  return first(order, std::max(above, share));
}

std::vector<std::size_t> entropy_bounded(std::span<const SampleOutput> samples, double bound) {
  const std::vector<std::size_t> order = by_confidence(samples);
  double sum = 0.0;
  double largest = 0.0;
  const auto add = [&](std::size_t n) {
    sum += samples[order[n]].entropy;
    largest = std::max(largest, samples[order[n]].entropy);
    return sum - largest <= bound;
  };
  if (!order.empty()) {
    add(0);
  }
  return best_and(order, add);
}

}  // namespace

std::vector<std::size_t> select(const SelectionRule& rule, std::span<const SampleOutput> samples,
                                const StepShare& share, Random& random) {
  const auto tokens = static_cast<std::size_t>(share.tokens);
  switch (rule.selection) {
    case Selection::kBest:
      return first(rule.alg_temp > 0.0 ? drawn_by_confidence(samples, rule.alg_temp, random) : by_confidence(samples),
                   tokens);
    case Selection::kThreshold: {
      const std::vector<std::size_t> order = by_confidence(samples);
      return best_and(order, [&](std::size_t n) { return samples[order[n]].confidence >= rule.threshold; }, share.most);
    }
    case Selection::kAboveThreshold:
      return above_threshold(samples, rule.threshold, std::max<std::size_t>(tokens, 1));
    case Selection::kFactor: {
      const std::vector<std::size_t> order = by_confidence(samples);
      return best_and(
          order,
          [&](std::size_t n) { return samples[order[n]].confidence >= 1.0 - rule.factor / static_cast<double>(n + 2); },
          share.most);
    }
    case Selection::kSequential: {
      std::vector<std::size_t> order(samples.size());
      std::iota(order.begin(), order.end(), std::size_t{0});
      return first(std::move(order), tokens);
    }
    case Selection::kEntropyBounded:
      return share.is_last ? by_confidence(samples) : entropy_bounded(samples, rule.entropy_bound);
    case Selection::kEach:
      break;
  }
  std::vector<std::size_t> chosen;
  for (std::size_t i = 0; i < samples.size(); ++i) {
    if (random.uniform() < share.probability) {
      chosen.push_back(i);
    }
  }
  return chosen;
}

}  // namespace diffulex_edge
