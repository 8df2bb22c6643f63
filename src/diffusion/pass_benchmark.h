// How long forward passes take, for so many tokens behind so many that are in the cache: what decoding is made of.
#pragma once

#include <cstdint>
#include <vector>

#include "diffulex_edge/progress.h"
#include "diffulex_edge/runtime.h"

namespace diffulex_edge {

struct PassBenchmarkOptions {
  std::vector<std::int64_t> tokens = {1, 4, 8, 16, 32, 64};  // of a pass
  std::vector<std::int64_t> contexts = {0, 512, 2048};       // tokens in the cache before it
  bool last_row = false;                                     // the logits of the last token instead of all
  CacheDtype cache_dtype = CacheDtype::FP32;
  int repetitions = 5;
};

// Of several repetitions.
struct Spread {
  double median = 0.0;
  double least = 0.0;
  double greatest = 0.0;
};
// `values` must not be empty.
Spread spread_of(std::vector<double> values);

struct PassTiming {
  std::int64_t tokens = 0;
  std::int64_t context = 0;
  Spread seconds;
  Spread cpu_seconds;      // of all threads of the process
  std::int64_t bytes = 0;  // weights, and keys and values of all that attention sees
};

// A prompt that goes through the model in pieces, without logits.
struct PrefillTiming {
  std::int64_t tokens = 0;
  Spread seconds;
  Spread cpu_seconds;
  int repetitions = 0;
};

struct PassBenchmark {
  std::vector<PrefillTiming> prefills;  // of each context but 0
  std::vector<PassTiming> passes;       // by context, then by tokens, both ascending and each once
  int repetitions = 0;                  // of each pass
  std::int64_t weight_bytes = 0;
  std::int64_t cache_bytes = 0;
};

// Throws Error{kInvalidArgument} for a number out of range, or a context and a pass beyond `longest` tokens.
void check_pass_benchmark(const PassBenchmarkOptions& options, std::int64_t longest);

// Runs random tokens: contexts are really computed. Repetitions of passes of one context take turns, so that what else
// the machine does hits all of them; one turn before is not counted. A prefill is repeated as long as all of them took
// less than ten seconds. Errors: those of check_pass_benchmark() with the model's length, kOutOfMemory, kCancelled.
PassBenchmark benchmark_passes(const PackedModel& model, const PassBenchmarkOptions& options,
                               const RunControl& control = {});

}  // namespace diffulex_edge
