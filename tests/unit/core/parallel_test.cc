#include "core/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <vector>

#include "core/sha256.h"
#include "support/expect_error.h"

namespace diffulex_edge {
namespace {

TEST(ParallelFor, DoesEachItemOnceOnAnyNumberOfThreads) {
  for (int threads = 1; threads <= 4; ++threads) {
    std::vector<std::atomic<int>> done(1000);
    parallel_for(done.size(), {.threads = threads}, [&](std::size_t item, std::size_t worker) {
      EXPECT_LT(worker, static_cast<std::size_t>(threads));
      ++done[item];
    });
    for (const auto& count : done) {
      EXPECT_EQ(count, 1);
    }
  }
  parallel_for(0, {}, [](std::size_t, std::size_t) { FAIL(); });
}

TEST(ParallelFor, RethrowsTheFailureAndStops) {
  std::atomic<int> calls{0};
  EXPECT_THROW(parallel_for(100'000, {.threads = 3},
                            [&](std::size_t, std::size_t) {
                              ++calls;
                              throw std::runtime_error("x");
                            }),
               std::runtime_error);
  EXPECT_LE(calls, 3);
}

TEST(ParallelFor, StopsWhenAsked) {
  std::stop_source source;
  std::atomic<int> calls{0};
  testing::expect_error(ErrorCode::kCancelled, {"stopped"}, [&] {
    parallel_for(100'000, {.threads = 2, .stop = source.get_token()}, [&](std::size_t, std::size_t) {
      if (++calls >= 10) {  // whoever comes to it: one thread may sleep between counting and asking
        source.request_stop();
      }
    });
  });
  EXPECT_LT(calls, 20);
}

// FIPS 180-2, appendix B.
TEST(Sha256, MatchesThePublishedVectors) {
  const std::string_view abc = "abc";
  EXPECT_EQ(sha256_hex(std::as_bytes(std::span(abc))),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex({}), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

}  // namespace
}  // namespace diffulex_edge
