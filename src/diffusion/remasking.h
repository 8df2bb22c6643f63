// Which of the sampled tokens are committed.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "diffusion/sampler.h"
#include "runtime/random.h"

namespace diffulex_edge {

enum class Selection : std::uint8_t {
  kBest,            // the step's share of the most confident ones
  kThreshold,       // all at least as confident as the threshold, and always the best
  kAboveThreshold,  // all more confident than the threshold, if they are at least the step's share; else that
  kFactor,          // the n best while the n-th has at least 1 - factor / (n + 1), and always the best
  kSequential,      // the step's share from left to right
  kEntropyBounded,  // the n most confident whose entropies, without the largest, have at most the bound in sum
  kEach,            // each with the step's probability
};

struct SelectionRule {
  Selection selection = Selection::kBest;
  double threshold = 0.0;
  double factor = 0.0;
  double entropy_bound = 0.0;  // in nats
  double alg_temp = 0.0;       // of kBest: draws positions by softmax(confidence / alg_temp), one after another
};

// What a step may commit.
struct StepShare {
  std::int64_t tokens = 0;
  std::optional<std::int64_t> most;  // of kThreshold and kFactor
  double probability = 1.0;          // of kEach
  bool is_last = false;              // kEntropyBounded: there is no later step, all are committed
};

// The places in `samples` that are committed, in any order. Of equal confidences the first one counts as the best.
std::vector<std::size_t> select(const SelectionRule& rule, std::span<const SampleOutput> samples,
                                const StepShare& share, Random& random);

}  // namespace diffulex_edge
