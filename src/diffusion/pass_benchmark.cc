#include "diffusion/pass_benchmark.h"

#include <algorithm>
#include <chrono>
#include <ctime>
#include <numeric>
#include <string>
#include <utility>

#include "diffulex_edge/error.h"
#include "diffusion/decoder.h"
#include "runtime/decoding_session.h"
#include "runtime/random.h"

namespace diffulex_edge {
namespace {

constexpr double kPrefillSeconds = 10.0;  // of all repetitions, after which there is no other
constexpr std::uint64_t kTokenSeed = 20261129;

void check_range(const char* what, const std::vector<std::int64_t>& values, std::int64_t least) {
  if (values.empty()) {
    throw Error(ErrorCode::kInvalidArgument, what, "has no number");
  }
  if (const std::int64_t smallest = *std::ranges::min_element(values); smallest < least) {
    throw Error(ErrorCode::kInvalidArgument, what, std::to_string(smallest) + " is less than " + std::to_string(least));
  }
}

std::vector<std::int64_t> ascending(std::vector<std::int64_t> values) {
  std::ranges::sort(values);
  const auto repeated = std::ranges::unique(values);
  values.erase(repeated.begin(), repeated.end());
  return values;
}

// Times of something that is done several times.
class Stopwatch {
 public:
  void start() {
    start_ = Clock::now();
    cpu_start_ = std::clock();
  }
  void stop() {
    seconds_.push_back(std::chrono::duration<double>(Clock::now() - start_).count());
    cpu_seconds_.push_back(static_cast<double>(std::clock() - cpu_start_) / static_cast<double>(CLOCKS_PER_SEC));
  }

  double total() const { return std::accumulate(seconds_.begin(), seconds_.end(), 0.0); }
  int count() const { return static_cast<int>(seconds_.size()); }
  Spread seconds() const { return spread_of(seconds_); }
  Spread cpu_seconds() const { return spread_of(cpu_seconds_); }

 private:
  using Clock = std::chrono::steady_clock;

  Clock::time_point start_;
  std::clock_t cpu_start_ = 0;
  std::vector<double> seconds_;
  std::vector<double> cpu_seconds_;
};

class Benchmark {
 public:
  Benchmark(const PackedModel& model, PassBenchmarkOptions options, const RunControl& control)
      : options_(std::move(options)),
        control_(control),
        capacity_(options_.contexts.back() + options_.tokens.back()),
        session_(model, {.capacity = capacity_, .sequences = 1, .dtype = options_.cache_dtype}, control_),
        weight_bytes_(model.weight_bytes()) {
    Random random(kTokenSeed);
    for (std::int64_t i = 0; i < capacity_; ++i) {
      ids_.push_back(
          static_cast<std::int64_t>(random.below(static_cast<std::size_t>(session_.model().config.vocab_size))));
    }
  }

  PassBenchmark run() {
    PassBenchmark result{
        .repetitions = options_.repetitions, .weight_bytes = weight_bytes_, .cache_bytes = session_.cache_bytes()};
    for (const std::int64_t context : options_.contexts) {
      if (context > 0) {
        result.prefills.push_back(time_prefill(context));
      }
      time_passes(context, result.passes);
    }
    return result;
  }

 private:
  void run_pass(std::int64_t begin, std::int64_t tokens, std::vector<std::int64_t> rows) {
    const auto first = ids_.begin() + begin;
    session_.run({{.sequence = 0,
                   .start = begin,
                   .tokens = {first, first + tokens},
                   .end = begin + tokens,
                   .rows = std::move(rows)}},
                 [](std::size_t, std::size_t, std::span<float>) {});
  }

  PrefillTiming time_prefill(std::int64_t context) {
    Stopwatch watch;
    while (watch.count() < options_.repetitions && watch.total() < kPrefillSeconds) {
      report();
      watch.start();
      for (std::int64_t begin = 0; begin < context; begin += kPrefillTokens) {
        run_pass(begin, std::min(kPrefillTokens, context - begin), {});
      }
      watch.stop();
    }
    return {.tokens = context,
            .seconds = watch.seconds(),
            .cpu_seconds = watch.cpu_seconds(),
            .repetitions = watch.count()};
  }

  void time_passes(std::int64_t context, std::vector<PassTiming>& timings) {
    std::vector<Stopwatch> watches(options_.tokens.size());
    for (int repetition = -1; repetition < options_.repetitions; ++repetition) {
      report();
      for (std::size_t i = 0; i < watches.size(); ++i) {
        const std::int64_t tokens = options_.tokens[i];
        std::vector<std::int64_t> rows(options_.last_row ? 1 : static_cast<std::size_t>(tokens), tokens - 1);
        if (!options_.last_row) {
          std::iota(rows.begin(), rows.end(), 0);
        }
        Stopwatch uncounted;
        Stopwatch& watch = repetition < 0 ? uncounted : watches[i];
        watch.start();
        run_pass(context, tokens, std::move(rows));
        watch.stop();
      }
    }
    for (std::size_t i = 0; i < watches.size(); ++i) {
      const std::int64_t tokens = options_.tokens[i];
      timings.push_back(
          {.tokens = tokens,
           .context = context,
           .seconds = watches[i].seconds(),
           .cpu_seconds = watches[i].cpu_seconds(),
           .bytes = session_.pass_weight_bytes() + session_.cache_bytes() / capacity_ * (context + tokens)});
    }
  }

  void report() {
    if (control_.on_progress) {
      const auto per_context = static_cast<std::int64_t>(options_.repetitions) * 2 + 1;
      control_.on_progress({.stage = "passes",
                            .done_bytes = done_++,
                            .total_bytes = per_context * static_cast<std::int64_t>(options_.contexts.size()),
                            .in_bytes = false});
    }
  }

  PassBenchmarkOptions options_;
  RunControl control_;
  std::int64_t capacity_;
  DecodingSession session_;
  std::int64_t weight_bytes_;
  std::vector<std::int64_t> ids_;
  std::int64_t done_ = 0;
};

}  // namespace

Spread spread_of(std::vector<double> values) {
  std::ranges::sort(values);
  const std::size_t middle = values.size() / 2;
  const double median = values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2.0;
  return {.median = median, .least = values.front(), .greatest = values.back()};
}

void check_pass_benchmark(const PassBenchmarkOptions& options, std::int64_t longest) {
  check_range("tokens", options.tokens, 1);
  check_range("contexts", options.contexts, 0);
  if (options.repetitions < 1) {
    throw Error(ErrorCode::kInvalidArgument, "repetitions", std::to_string(options.repetitions) + " is less than 1");
  }
  const std::int64_t context = *std::ranges::max_element(options.contexts);
  const std::int64_t tokens = *std::ranges::max_element(options.tokens);
  if (context > longest || tokens > longest - context) {
    throw Error(ErrorCode::kInvalidArgument, "contexts",
                "a context of " + std::to_string(context) + " and a pass of " + std::to_string(tokens) +
                    " tokens are more than the model's " + std::to_string(longest),
                "give smaller ones");
  }
}

PassBenchmark benchmark_passes(const PackedModel& model, const PassBenchmarkOptions& options,
                               const RunControl& control) {
  check_pass_benchmark(options, DecodingSession::max_tokens(model));
  PassBenchmarkOptions sorted = options;
  sorted.tokens = ascending(std::move(sorted.tokens));
  sorted.contexts = ascending(std::move(sorted.contexts));
  return Benchmark(model, std::move(sorted), control).run();
}

}  // namespace diffulex_edge
