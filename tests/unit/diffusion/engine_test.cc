// The engine on small random models of every family. That its tokens are the published programs' is
// tests/integration/test_decoding.py's matter.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "diffulex_edge/generation.h"
#include "support/expect_error.h"
#include "support/reference_decoder.h"
#include "support/temporary_folder.h"
#include "support/tiny_model.h"

namespace diffulex_edge {
namespace {

using Ids = std::vector<std::int64_t>;

constexpr std::int64_t kMask = 36;
constexpr std::int64_t kLongest = 96;

const Ids kPrompt = {5, 1, 30, 7, 7, 2, 19};
const Ids kOther = {3, 3, 8, 21, 9, 17, 28, 11, 0, 4, 12};

class EngineOf : public ::testing::TestWithParam<const char*> {
 protected:
  EngineOf() {
    const auto decoder = testing::reference_decoder(GetParam());
    testing::write_model(folder_ / "model", decoder.config, decoder.tensors());
    model_ = load_model(folder_ / "model",
                        {.seq_len = kLongest, .block_length = {}, .mask_token_id = kMask, .ignored_config_keys = {}});
    model_.config.mask_token_id = kMask;
    engine_.emplace(model_, nullptr, RunControl{.threads = 2});
  }

  bool is_bidirectional() const { return model_.config.block_length == 0; }
  GenerationRequest request(const Ids& prompt = kPrompt) const {
    GenerationRequest request{.prompt = prompt, .suffix = {}, .config = {}};
    request.config.max_new_tokens = 24;
    if (model_.config.family != "fast_dllm_v2" && model_.config.block_length != 1) {
      request.config.steps_per_block = model_.config.family == "dream" ? 12 : 3;
    }
    if (model_.config.family == "llada") {
      request.config.block_length = 8;
    }
    return request;
  }
  Ids tokens(const GenerationRequest& request, int threads = 2) const {
    return engine_->generate(request, {}, {.threads = threads}).tokens;
  }

  testing::TemporaryFolder folder_;
  Model model_;
  std::optional<DiffusionEngine> engine_;
};

TEST_P(EngineOf, WritesAsManyTokensAsAskedFor) {
  const GenerationResult result = engine_->generate(request());
  EXPECT_EQ(result.tokens.size(), 24U);
  EXPECT_TRUE(std::ranges::all_of(result.tokens, [](std::int64_t id) { return id >= 0 && id < 37; }));
  if (model_.config.block_length != 1) {
    EXPECT_EQ(std::ranges::count(result.tokens, kMask), 0);
  }
  EXPECT_EQ(result.stopped, Stopped::LENGTH);
  EXPECT_EQ(result.prompt_tokens, 7);
  EXPECT_EQ(result.cache_bytes, engine_->cache_bytes(request()));
  EXPECT_GT(result.seconds, 0.0);
  EXPECT_GT(result.seconds_to_first_block, 0.0);
  EXPECT_LE(result.seconds_to_first_block, result.seconds);
}

class BlockCausalEngineOf : public EngineOf {};

TEST_P(BlockCausalEngineOf, WritesTheSameWithAndWithoutTheExactCache) {
  for (const double temperature : {0.0, 1.0}) {
    GenerationRequest cached = request();
    cached.config.temperature = temperature;
    GenerationRequest uncached = cached;
    uncached.config.cache = CacheKind::NONE;
    EXPECT_EQ(tokens(cached), tokens(uncached));
  }
}

TEST_P(EngineOf, WritesTheSameSideBySideAsOneByOne) {
  std::vector<GenerationRequest> requests = {request(), request(kOther), request(kOther)};
  requests[1].config.max_new_tokens = 16;
  requests[2].config.temperature = 0.8;
  requests[2].config.seed = 7;
  if (is_bidirectional()) {
    requests[0].config.cfg_scale = 0.5;
  }
  const std::vector<GenerationResult> results = engine_->generate(requests);
  ASSERT_EQ(results.size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(results[i].tokens, tokens(requests[i], i == 0 ? 1 : 2)) << i;
  }
}

TEST_P(EngineOf, RepeatsItselfByItsSeedOnly) {
  GenerationRequest warm = request();
  warm.config.temperature = 1.5;
  const Ids first = tokens(warm);
  EXPECT_EQ(tokens(warm, 1), first);
  warm.config.seed = 1;
  EXPECT_NE(tokens(warm), first);
}

TEST_P(EngineOf, EndsWithAnEndToken) {
  const Ids all = tokens(request());
  GenerationRequest ended = request();
  ended.config.eos_ids = {all[10]};
  const auto first = static_cast<std::size_t>(std::ranges::find(all, all[10]) - all.begin());
  const GenerationResult result = engine_->generate(ended);
  EXPECT_EQ(result.tokens, Ids(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(first) + 1));
  EXPECT_EQ(result.stopped, Stopped::END);
  ended.config.ignore_eos = true;
  EXPECT_EQ(tokens(ended), all);
}

TEST_P(EngineOf, ReportsWhatIsFinalAndStopsWhenAsked) {
  const Ids all = tokens(request());
  std::int64_t written = 0;
  std::int64_t calls = 0;
  const auto watch = [&](const GenerationState& state) {
    EXPECT_GE(state.written, written);
    written = state.written;
    EXPECT_EQ(state.begin, 7);
    EXPECT_EQ(state.end, 7 + 24);
    for (std::int64_t i = 0; i < state.written; ++i) {
      EXPECT_EQ(state.tokens[static_cast<std::size_t>(state.begin + i)], all[static_cast<std::size_t>(i)]);
      EXPECT_FALSE(state.masked[static_cast<std::size_t>(state.begin + i)]);
    }
    ++calls;
    return written < 9;
  };
  const GenerationResult result = engine_->generate(request(), watch);
  EXPECT_EQ(result.stopped, Stopped::STOP);
  EXPECT_EQ(static_cast<std::int64_t>(result.tokens.size()), written);
  EXPECT_GT(calls, 0);
}

TEST_P(EngineOf, TakesRequestsBetweenPasses) {
  GenerationLoop loop(*engine_, {.capacity = kLongest, .sequences = 2});
  const std::size_t first = loop.add(request());
  EXPECT_TRUE(loop.step());
  const std::size_t second = loop.add(request(kOther));
  EXPECT_FALSE(loop.has_room(request()));
  for (int i = 0; i < 3; ++i) {
    loop.step();
  }
  const GenerationResult left = loop.take(first);  // before its end
  EXPECT_LT(left.tokens.size(), 24U);
  EXPECT_TRUE(loop.has_room(request()));
  const std::size_t third = loop.add(request());
  while (loop.step()) {
  }
  EXPECT_TRUE(loop.is_done(second));
  EXPECT_EQ(loop.take(second).tokens, tokens(request(kOther)));
  EXPECT_EQ(loop.take(third).tokens, tokens(request())) << "in the place of another one";
}

GenerationResult finish(GenerationLoop& loop, const GenerationRequest& request) {
  const std::size_t id = loop.add(request);
  while (loop.step()) {
  }
  return loop.take(id);
}

TEST_P(EngineOf, WritesTheSameWhereTheCacheHoldsTheBeginning) {
  for (const CacheDtype dtype : {CacheDtype::FP32, CacheDtype::INT8}) {
    GenerationLoop kept(*engine_, {.capacity = kLongest, .sequences = 1, .cache_dtype = dtype});
    const auto expect_same = [&](const Ids& prompt, std::int64_t least, std::int64_t most) {
      GenerationRequest next = request(prompt);
      next.config.cache_dtype = dtype;
      const GenerationResult result = finish(kept, next);
      EXPECT_EQ(result.tokens, engine_->generate(next).tokens);
      const bool is_kept = !is_bidirectional();
      EXPECT_GE(result.cached_tokens, is_kept ? least : 0);
      EXPECT_LE(result.cached_tokens, is_kept ? most : 0);
      return result.tokens;
    };
    Ids conversation = kPrompt;
    const Ids answer = expect_same(conversation, 0, 0);
    conversation.insert(conversation.end(), answer.begin(), answer.end());
    conversation.insert(conversation.end(), {9, 4});
    const std::int64_t block = std::max<std::int64_t>(model_.config.block_length, 1);
    expect_same(conversation, 31 - 2 * block, 31);  // the last block of an answer is never computed as it ends
    conversation[12] = conversation[12] == 3 ? 4 : 3;
    expect_same(conversation, 12 / block * block, 12);
    expect_same(conversation, 32 / block * block - block, 32);
    expect_same(kOther, 0, 0);
  }
}

TEST_P(EngineOf, GoesOnAfterAnAnswerThatWasEnded) {
  GenerationLoop loop(*engine_, {.capacity = kLongest, .sequences = 1});
  Ids conversation = kPrompt;
  conversation.insert(conversation.end(), kOther.begin(), kOther.end());
  const std::size_t id = loop.add(request(conversation));
  for (int i = 0; i < 7; ++i) {
    loop.step();
  }
  const GenerationResult left = loop.take(id);
  conversation.insert(conversation.end(), left.tokens.begin(), left.tokens.end());
  EXPECT_EQ(finish(loop, request(conversation)).tokens, tokens(request(conversation)));
}

TEST_P(EngineOf, KeepsKeysInFewerBits) {
  GenerationRequest halves = request();
  halves.config.cache_dtype = CacheDtype::FP16;
  GenerationRequest bytes = request();
  bytes.config.cache_dtype = CacheDtype::INT8;
  EXPECT_EQ(tokens(halves).size(), 24U);
  EXPECT_EQ(tokens(bytes).size(), 24U);
  EXPECT_EQ(engine_->cache_bytes(halves) * 2, engine_->cache_bytes(request()));
  EXPECT_LT(engine_->cache_bytes(bytes) * 3, engine_->cache_bytes(request()));
}

TEST_P(EngineOf, RefusesWhatCannotBe) {
  const auto expect_refused = [&](std::initializer_list<std::string> parts, const auto& change,
                                  ErrorCode code = ErrorCode::kInvalidArgument) {
    GenerationRequest wrong = request();
    change(wrong);
    testing::expect_error(code, parts, [&] { engine_->generate(wrong); });
  };
  expect_refused({"prompt", "no token"}, [](GenerationRequest& r) { r.prompt.clear(); });
  expect_refused({"token 37", "vocabulary of 37"}, [](GenerationRequest& r) { r.prompt[2] = 37; });
  expect_refused({"token -1"}, [](GenerationRequest& r) { r.prompt[2] = -1; });
  expect_refused({"7 tokens", "90 new ones", "96", "shorten"},
                 [](GenerationRequest& r) { r.config.max_new_tokens = 90; });
  expect_refused({"9223372036854775807 new ones", "96"},
                 [](GenerationRequest& r) { r.config.max_new_tokens = std::numeric_limits<std::int64_t>::max(); });
  expect_refused({"steps_per_block", "9223372036854775807"},
                 [](GenerationRequest& r) { r.config.steps_per_block = std::numeric_limits<std::int64_t>::max(); });
  expect_refused({"max_new_tokens", "-1"}, [](GenerationRequest& r) { r.config.max_new_tokens = -1; });
  expect_refused({"max_new_tokens", "nothing to write"}, [](GenerationRequest& r) { r.config.max_new_tokens = 0; });
  expect_refused({"temperature", "-0.5"}, [](GenerationRequest& r) { r.config.temperature = -0.5; });
  expect_refused({"top_p", "1.5 is not in 0..1"}, [](GenerationRequest& r) { r.config.top_p = 1.5; });
  expect_refused({"steps", "steps_per_block"}, [](GenerationRequest& r) {
    r.config.steps = 24;
    r.config.steps_per_block = 2;
  });
  expect_refused({"threshold", "factor"}, [](GenerationRequest& r) {
    r.config.threshold = 0.5;
    r.config.factor = 1.0;
  });
  if (is_bidirectional()) {
    expect_refused({"cache", "exact", "block-causal"}, [](GenerationRequest& r) { r.config.cache = CacheKind::EXACT; });
    expect_refused({"cfg_scale", "no cache"}, [](GenerationRequest& r) {
      r.config.cfg_scale = 1.0;
      r.config.cache = CacheKind::DUAL;
    });
  } else {
    expect_refused({"cache", "dual", "bidirectional"}, [](GenerationRequest& r) { r.config.cache = CacheKind::DUAL; });
    expect_refused({"cfg_scale", "bidirectional"}, [](GenerationRequest& r) { r.config.cfg_scale = 1.0; });
    expect_refused(
        {"suffix", "does not see", model_.config.family}, [](GenerationRequest& r) { r.suffix = {1}; },
        ErrorCode::kUnsupported);
  }
}

TEST_P(EngineOf, IsStopped) {
  std::stop_source stop;
  stop.request_stop();
  testing::expect_error(ErrorCode::kCancelled, {"stopped"},
                        [&] { engine_->generate(request(), {}, {.stop = stop.get_token()}); });
}

TEST_P(EngineOf, NeedsAMaskTokenUnlessItIsAutoregressive) {
  Model unmasked = model_;
  unmasked.config.mask_token_id.reset();
  const DiffusionEngine engine(unmasked);
  if (model_.config.block_length == 1) {
    EXPECT_EQ(engine.generate(request()).tokens.size(), 24U);
  } else {
    testing::expect_error(ErrorCode::kInvalidArgument, {"mask token", "--mask-token-id"},
                          [&] { engine.generate(request()); });
  }
}

INSTANTIATE_TEST_SUITE_P(Families, EngineOf,
                         ::testing::Values("llada", "dream", "sdar", "fast_dllm_v2", "llama", "qwen2", "qwen3"),
                         [](const auto& family) { return std::string(family.param); });

INSTANTIATE_TEST_SUITE_P(Families, BlockCausalEngineOf,
                         ::testing::Values("sdar", "fast_dllm_v2", "llama", "qwen2", "qwen3"),
                         [](const auto& family) { return std::string(family.param); });

class SdarEngineOf : public EngineOf {};

TEST_P(SdarEngineOf, KnowsEveryStrategy) {
  for (const Remasking remasking :
       {Remasking::RANDOM, Remasking::ORIGIN, Remasking::MASKGIT_PLUS, Remasking::TOPK_MARGIN, Remasking::ENTROPY,
        Remasking::SEQUENTIAL, Remasking::LOW_CONFIDENCE_STATIC, Remasking::ENTROPY_BOUNDED}) {
    GenerationRequest other = request();
    other.config.remasking = remasking;
    EXPECT_EQ(tokens(other).size(), 24U) << to_string(remasking);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, SdarEngineOf, ::testing::Values("sdar"),
                         [](const auto& family) { return std::string(family.param); });

class BidirectionalEngineOf : public EngineOf {};

TEST_P(BidirectionalEngineOf, FillsInBetweenAPromptAndASuffix) {
  GenerationRequest infill = request();
  infill.config.max_new_tokens = 8;
  infill.suffix = {4, 4, 9};
  const GenerationResult result = engine_->generate(infill, [&](const GenerationState& state) {
    EXPECT_EQ(state.tokens.size(), 7U + 8U + 3U);
    EXPECT_EQ(state.tokens[15], 4);
    EXPECT_EQ(state.end, 15);
    return true;
  });
  EXPECT_EQ(result.tokens.size(), 8U);
  GenerationRequest other = infill;
  other.suffix = {30, 2, 30};
  EXPECT_NE(tokens(other), result.tokens) << "what comes later is seen";
}

TEST_P(BidirectionalEngineOf, FillsInACanvas) {
  GenerationRequest canvas = request({5, kMask, 30, kMask, kMask, 2, 19});
  canvas.config.max_new_tokens = 0;
  canvas.config.steps_per_block.reset();
  const Ids written = tokens(canvas);
  ASSERT_EQ(written.size(), 4U) << "from the first mask to the last";
  EXPECT_EQ(written[1], 30);
  EXPECT_EQ(std::ranges::count(written, kMask), 0);
}

TEST_P(BidirectionalEngineOf, EndsWithMoreStepsThanTokens) {
  for (const Remasking remasking : {Remasking::LOW_CONFIDENCE, Remasking::ORIGIN, Remasking::ENTROPY_BOUNDED}) {
    GenerationRequest slow = request();
    slow.config.remasking = remasking;
    slow.config.steps_per_block = 1000;
    EXPECT_EQ(tokens(slow).size(), 24U);
    if (remasking == Remasking::LOW_CONFIDENCE) {
      slow.config.threshold = 0.9;
      EXPECT_EQ(tokens(slow).size(), 24U);
    }
  }
}

// With as many passes between two refreshes as one, nothing is approximated but the prompt's place in a block.
TEST_P(BidirectionalEngineOf, IsExactWhereEveryPassRefreshesTheCache) {
  for (const CacheKind kind : {CacheKind::PREFIX, CacheKind::DUAL}) {
    GenerationRequest cached = request();
    cached.config.cache = kind;
    cached.config.cache_refresh = 1;
    cached.config.threshold = 0.2;
    GenerationRequest uncached = cached;
    uncached.config.cache = CacheKind::NONE;
    uncached.config.cache_refresh = 0;
    uncached.config.steps_per_block.reset();
    if (model_.config.family == "llada") {
      EXPECT_EQ(tokens(cached), tokens(uncached));
    }
    cached.config.cache_refresh = 0;
    EXPECT_EQ(tokens(cached).size(), 24U);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, BidirectionalEngineOf, ::testing::Values("llada", "dream"),
                         [](const auto& family) { return std::string(family.param); });

}  // namespace
}  // namespace diffulex_edge
