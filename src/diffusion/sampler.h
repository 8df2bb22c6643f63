// One position's logits to a token, and how sure the model is of it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/random.h"

namespace diffulex_edge {

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
  std::vector<std::int64_t> never;  // token ids that are not written
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

  const SamplerSettings& settings() const { return settings_; }

 private:
  void filter(std::span<float> logits) const;
  double confidence_of(std::span<float> logits, std::int64_t token, Random& random) const;

  SamplerSettings settings_;
};

// The most probable token, the first of equal ones.
std::int64_t most_probable(std::span<const float> logits);

}  // namespace diffulex_edge
