// One position's logits to a token, and how sure the model is of it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/random.h"

namespace diffulex_edge {

// The logit of a token that is not to be written, in place of minus infinity, which arithmetic would make NaN of: exp()
// of its distance to anything is 0.
inline constexpr float kNever = -1e30F;

// What a position is compared with others by.
enum class Confidence : std::uint8_t {
  kProbability,  // of the token
  kMargin,       // of the most probable token over the second
  kEntropy,      // sum of p log p, <= 0
  kRandom,
};

struct SamplerSettings {
  double temperature = 0.0;  // 0: the most probable token
  std::int64_t top_k = 0;
  double top_p = 1.0;
  double min_p = 0.0;
  double repetition_penalty = 1.0;
  // LLaDA draws with Gumbel noise, argmax of logits - temperature * ln(-ln u) in double precision
  // (https://arxiv.org/abs/2409.02908), and its confidence is that of the logits without temperature. The others draw
  // from softmax(logits / temperature).
  bool gumbel = false;
  bool top_p_first = false;                // Dream; else top-k, top-p, min-p
  bool confidence_before_filters = false;  // Fast-dLLM v2: the probability before top-k and its kin
  Confidence confidence = Confidence::kProbability;
  bool wants_entropy = false;
  bool temperature_last = false;  // WeDLM: filters before the temperature, and entropy before both
  // The mask token: it is not written, however probable, but has its part in the others' probabilities, as in the
  // published programs, where nothing keeps it from being written. -1: there is none.
  std::int64_t mask = -1;
  std::vector<std::int64_t> never;  // token ids that are not written and have no probability
  std::vector<std::int64_t> last;   // written, but with no confidence
};

struct SampleOutput {
  std::int64_t token = 0;
  double confidence = 0.0;
  double entropy = 0.0;  // in nats, where it is asked for
};

class DiffusionSampler {
 public:
  explicit DiffusionSampler(SamplerSettings settings) : settings_(std::move(settings)) {}

  // Changes `logits`. `present` are the tokens that are there, each once, for the penalty. Draws from `random` alone,
  // so that results don't depend on the order of calls.
  SampleOutput sample(std::span<float> logits, std::span<const std::int64_t> present, Random random) const;

  // The most probable one that may be written, whatever the temperature. Changes `logits`.
  SampleOutput greedy(std::span<float> logits) const;

  const SamplerSettings& settings() const { return settings_; }

 private:
  bool has_filters() const { return settings_.top_k > 0 || settings_.top_p < 1.0 || settings_.min_p > 0.0; }
  void filter(std::span<float> logits) const;
  std::int64_t choose(std::span<const float> logits, Random& random) const;
  double confidence_of(std::span<float> logits, std::int64_t token, Random& random) const;

  SamplerSettings settings_;
};

}  // namespace diffulex_edge
