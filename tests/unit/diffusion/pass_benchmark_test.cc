#include "diffusion/pass_benchmark.h"

#include <gtest/gtest.h>

#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

Model tiny_llada() { return load_model(DIFFULEX_EDGE_EXAMPLES_DIR "/tiny-llada"); }

std::string problem_of(const PassBenchmarkOptions& options) {
  try {
    check_pass_benchmark(options, 256);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return {};
}

TEST(PassBenchmark, SpreadIsTheMiddleAndTheEnds) {
  const Spread odd = spread_of({5.0, 1.0, 2.0});
  EXPECT_EQ(odd.median, 2.0);
  EXPECT_EQ(odd.least, 1.0);
  EXPECT_EQ(odd.greatest, 5.0);
  EXPECT_EQ(spread_of({4.0, 1.0, 3.0, 10.0}).median, 3.5);
}

TEST(PassBenchmark, TimesEachPairOnceInOrder) {
  const PassBenchmark result = benchmark_passes(
      PackedModel(tiny_llada()),
      {.tokens = {8, 1, 8}, .contexts = {32, 0}, .last_row = false, .cache_dtype = CacheDtype::FP16, .repetitions = 2});
  ASSERT_EQ(result.passes.size(), 4U);
  const std::vector<std::pair<std::int64_t, std::int64_t>> wanted = {{0, 1}, {0, 8}, {32, 1}, {32, 8}};
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const PassTiming& timing = result.passes[i];
    EXPECT_EQ(std::pair(timing.context, timing.tokens), wanted[i]);
    EXPECT_GT(timing.seconds.least, 0.0);
    EXPECT_LE(timing.seconds.least, timing.seconds.median);
    EXPECT_LE(timing.seconds.median, timing.seconds.greatest);
  }
  ASSERT_EQ(result.prefills.size(), 1U);
  EXPECT_EQ(result.prefills[0].tokens, 32);
  EXPECT_EQ(result.repetitions, 2);
}

// 4 layers, 2 heads of 64 for keys and for values, 40 tokens of 2 bytes. The embedding, 1024 x 256 in float32, is a
// table apart from the head.
TEST(PassBenchmark, CountsWhatAPassReads) {
  const PackedModel model(tiny_llada());
  const PassBenchmark result = benchmark_passes(
      model, {.tokens = {8}, .contexts = {32}, .last_row = true, .cache_dtype = CacheDtype::FP16, .repetitions = 1});
  constexpr std::int64_t kCache = 4LL * 2 * 2 * 64 * 40 * 2;
  EXPECT_EQ(result.cache_bytes, kCache);
  EXPECT_EQ(result.weight_bytes, model.weight_bytes());
  EXPECT_EQ(result.passes.at(0).bytes, model.weight_bytes() - 1024LL * 256 * 4 + kCache);
}

TEST(PassBenchmark, RefusesWhatTheModelCannotTake) {
  EXPECT_EQ(problem_of({.tokens = {1, 56}, .contexts = {0, 200}}), "");
  EXPECT_EQ(problem_of({.tokens = {1, 57}, .contexts = {0, 200}}),
            "contexts: a context of 200 and a pass of 57 tokens are more than the model's 256 (give smaller ones)");
  EXPECT_EQ(problem_of({.tokens = {0}, .contexts = {0}}), "tokens: 0 is less than 1");
  EXPECT_EQ(problem_of({.tokens = {1}, .contexts = {-1}}), "contexts: -1 is less than 0");
  EXPECT_EQ(problem_of({.tokens = {}, .contexts = {0}}), "tokens: has no number");
  EXPECT_NE(problem_of({.tokens = {1}, .contexts = {INT64_MAX}}), "");
}

}  // namespace
}  // namespace diffulex_edge
