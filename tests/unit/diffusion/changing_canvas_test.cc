// Ways of decoding in which what is placed may change, move or vanish. That their tokens are the published programs' is
// tests/integration/test_decoding.py's matter.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <ranges>

#include "diffulex_edge/generation.h"
#include "diffusion/canvas.h"
#include "diffusion/schedule.h"
#include "support/expect_error.h"
#include "support/reference_decoder.h"
#include "support/temporary_folder.h"
#include "support/tiny_model.h"

namespace diffulex_edge {
namespace {

using Ids = std::vector<std::int64_t>;

constexpr std::int64_t kMask = 36;
constexpr std::int64_t kNew = 20;

const Ids kPrompt = {5, 1, 30, 7, 7, 2, 19};
const Ids kOther = {3, 3, 8, 21, 9, 17, 28, 11, 0, 4, 12};

struct Way {
  const char* name;
  const char* network;
  const char* family;
  std::function<void(DiffusionGenerationConfig&)> set;
};

void PrintTo(const Way& way, std::ostream* stream) { *stream << way.name; }

const Way kEditing = {"editing", "sdar", "llada2_moe", [](DiffusionGenerationConfig& config) {
                        config.threshold = 0.1;
                        config.editing_threshold = 0.05;
                      }};
const Way kP2 = {"p2", "dream", "dream", [](DiffusionGenerationConfig& config) { config.remasking = Remasking::P2; }};
const Way kP2Whole = {"p2_of_llada", "llada", "llada",
                      [](DiffusionGenerationConfig& config) { config.remasking = Remasking::P2; }};
const Way kWindow = {"window", "qwen3", "wedlm", [](DiffusionGenerationConfig& config) {
                       config.window_size = 6;
                       config.entropy_threshold = 3.2;
                     }};
const Way kExpanding = {"expanding", "dream", "dream", [](DiffusionGenerationConfig& config) {
                          config.expand_id = 9;
                          config.eos_ids = {14};
                        }};

class WayOf : public ::testing::TestWithParam<Way> {
 protected:
  WayOf() : WayOf(GetParam()) {}
  explicit WayOf(const Way& way) : way_(way) {
    const auto decoder = testing::reference_decoder(way.network);
    testing::write_model(folder_ / "model", decoder.config, decoder.tensors());
    model_ = load_model(folder_ / "model",
                        {.seq_len = 96, .block_length = {}, .mask_token_id = kMask, .ignored_config_keys = {}});
    model_.config.mask_token_id = kMask;
    model_.config.family = way.family;
    engine_.emplace(model_, nullptr, RunControl{.threads = 2});
  }

  GenerationRequest request(const Ids& prompt = kPrompt) const {
    GenerationRequest request{.prompt = prompt, .suffix = {}, .config = {}};
    request.config.max_new_tokens = kNew;
    way_.set(request.config);
    return request;
  }
  Ids tokens(const GenerationRequest& request, int threads = 2) const {
    return engine_->generate(request, {}, {.threads = threads}).tokens;
  }
  // Each pass's canvas, -1 for masks.
  std::vector<Ids> canvases(const GenerationRequest& request) const {
    std::vector<Ids> seen;
    engine_->generate(request, [&](const GenerationState& state) {
      Ids& canvas = seen.emplace_back(state.tokens.begin(), state.tokens.end());
      for (std::size_t i = 0; i < canvas.size(); ++i) {
        canvas[i] = state.masked[i] ? -1 : canvas[i];
      }
      return true;
    });
    return seen;
  }

  Way way_;
  testing::TemporaryFolder folder_;
  Model model_;
  std::optional<DiffusionEngine> engine_;
};

TEST_P(WayOf, WritesTheSameSideBySideAsOneByOneOnAnyNumberOfThreads) {
  std::vector<GenerationRequest> requests = {request(), request(kOther), request(kOther)};
  requests[1].config.max_new_tokens = 13;
  requests[2].config.temperature = 0.8;
  requests[2].config.seed = 7;
  const std::vector<GenerationResult> results = engine_->generate(requests);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(results[i].tokens, tokens(requests[i], 1)) << i;
    EXPECT_EQ(std::ranges::count(results[i].tokens, kMask), 0);
  }
}

TEST_P(WayOf, IsTheSameByItsSeedOnly) {
  GenerationRequest warm = request();
  warm.config.temperature = 1.5;
  const Ids first = tokens(warm);
  EXPECT_EQ(tokens(warm, 1), first);
  warm.config.seed = 1;
  EXPECT_NE(tokens(warm), first);
}

TEST_P(WayOf, SaysWhatIsFinalAndNeverTakesItBack) {
  Ids all = tokens(request());
  Ids written;
  const GenerationResult result = engine_->generate(request(), [&](const GenerationState& state) {
    const auto* const begin = state.tokens.data() + state.begin;
    const Ids now(begin, begin + state.written);
    EXPECT_GE(now.size(), written.size());
    EXPECT_TRUE(std::ranges::equal(written, now | std::views::take(std::ssize(written))));
    EXPECT_LE(state.begin + state.written, state.end);
    EXPECT_LE(state.end, std::ssize(state.tokens));
    written = now;
    return written.size() < 5;
  });
  EXPECT_EQ(result.tokens, written);
  all.resize(written.size());
  EXPECT_EQ(written, all);
}

TEST_P(WayOf, WritesTheSameWithAndWithoutACache) {
  if (model_.config.block_length == 0) {
    GTEST_SKIP() << "it has none";
  }
  for (const double temperature : {0.0, 1.0}) {
    GenerationRequest cached = request();
    cached.config.temperature = temperature;
    GenerationRequest uncached = cached;
    uncached.config.cache = CacheKind::NONE;
    EXPECT_EQ(tokens(cached), tokens(uncached));
  }
}

TEST_P(WayOf, GoesOnFromWhatTheCacheHolds) {
  GenerationLoop loop(*engine_, {.capacity = 96, .sequences = 1});
  Ids conversation = kPrompt;
  for (int turn = 0; turn < 2; ++turn) {
    const GenerationRequest next = request(conversation);
    const std::size_t id = loop.add(next);
    while (loop.step()) {
    }
    const GenerationResult result = loop.take(id);
    EXPECT_EQ(result.tokens, tokens(next));
    EXPECT_EQ(result.cached_tokens > 0, turn > 0 && model_.config.block_length > 0);
    conversation.insert(conversation.end(), result.tokens.begin(), result.tokens.end());
  }
}

INSTANTIATE_TEST_SUITE_P(Ways, WayOf, ::testing::Values(kEditing, kP2, kP2Whole, kWindow, kExpanding),
                         [](const auto& way) { return std::string(way.param.name); });

class EditingEngine : public WayOf {
 protected:
  EditingEngine() : WayOf(kEditing) {}
};

TEST_F(EditingEngine, ReplacesTokensOfItsBlockOnly) {
  const std::vector<Ids> seen = canvases(request());
  int edits = 0;
  for (std::size_t pass = 1; pass < seen.size(); ++pass) {
    for (std::size_t i = 0; i < seen[pass].size(); ++i) {
      if (seen[pass - 1][i] >= 0 && seen[pass][i] != seen[pass - 1][i]) {
        ++edits;
        EXPECT_GE(i, kPrompt.size());
        EXPECT_NE(seen[pass][i], -1);
        const auto length = static_cast<std::size_t>(model_.config.block_length);
        const std::size_t next = i / length * length + length;
        EXPECT_TRUE(next >= seen[pass].size() || seen[pass][next] == -1) << "a later block has begun";
      }
    }
  }
  EXPECT_GT(edits, 0);
}

// Probabilities are at most 1.
TEST_F(EditingEngine, WithoutEditsWritesWhatTheFamilyDoes) {
  GenerationRequest never = request();
  never.config.editing_threshold = 1.0;
  GenerationRequest plain = request();
  plain.config.editing_threshold.reset();
  EXPECT_EQ(tokens(never), tokens(plain));
  EXPECT_NE(tokens(request()), tokens(plain));
}

TEST_F(EditingEngine, EndsABlockAfterItsPostSteps) {
  std::int64_t before = 0;
  for (const std::int64_t steps : {0, 1, 4}) {
    GenerationRequest some = request();
    some.config.editing_threshold = 0.0;
    some.config.max_post_steps = steps;
    const std::int64_t passes = engine_->generate(some).forward_passes;
    EXPECT_GE(passes, before);
    before = passes;
  }
}

class P2Engine : public WayOf {
 protected:
  P2Engine() : WayOf(kP2) {}
};

TEST_F(P2Engine, MasksAgainAndEndsWithAll) {
  GenerationRequest some = request();
  some.config.steps = 8;
  const std::vector<Ids> seen = canvases(some);
  bool is_masked_again = false;
  for (std::size_t pass = 0; pass < seen.size(); ++pass) {
    EXPECT_EQ(std::ranges::count(seen[pass], -1), masked_share(kNew, 8, static_cast<std::int64_t>(pass)));
    for (std::size_t i = 0; pass > 0 && i < seen[pass].size(); ++i) {
      is_masked_again = is_masked_again || (seen[pass][i] == -1 && seen[pass - 1][i] >= 0);
    }
  }
  EXPECT_TRUE(is_masked_again);
  EXPECT_EQ(seen.size(), 8U);
}

class ExpandingEngine : public WayOf {
 protected:
  ExpandingEngine() : WayOf(kExpanding) {}

  // A token that the model writes.
  std::int64_t usual_token() const {
    GenerationRequest plain = request();
    plain.config.expand_id.reset();
    const Ids written = tokens(plain);
    std::map<std::int64_t, int> counts;
    for (const std::int64_t token : written) {
      ++counts[token];
    }
    return std::ranges::max_element(counts, {}, [](const auto& entry) { return entry.second; })->first;
  }
};

TEST_F(ExpandingEngine, GrowsUpToWhatIsAskedFor) {
  GenerationRequest growing = request();
  growing.config.expand_id = usual_token();
  growing.suffix = {4, 4, 9};
  growing.config.initial_masks = 2;
  std::size_t longest = 0;
  for (const Ids& canvas : canvases(growing)) {
    longest = std::max(longest, canvas.size());
    EXPECT_TRUE(std::ranges::equal(canvas | std::views::take(7), kPrompt));
    EXPECT_TRUE(std::ranges::equal(canvas | std::views::drop(canvas.size() - 3), Ids{4, 4, 9}));
  }
  EXPECT_GT(longest, 7U + 2U + 3U);
  EXPECT_LE(longest, 7U + kNew + 3U);
  growing.config.expand_budget = 1;
  EXPECT_LE(tokens(growing).size(), 3U);
  growing.config.expand_budget = 0;
  EXPECT_LE(tokens(growing).size(), 2U);
}

TEST_F(ExpandingEngine, MayEndWithNothing) {
  GenerationRequest shrinking = request();
  shrinking.config.eos_ids.clear();
  for (std::int64_t id = 0; id < kMask; ++id) {
    shrinking.config.eos_ids.push_back(id);  // whatever is written is deleted
  }
  shrinking.config.expand_id = 35;
  const GenerationResult result = engine_->generate(shrinking);
  EXPECT_TRUE(result.tokens.empty());
  EXPECT_EQ(result.forward_passes, 4);
  shrinking.suffix = {35};  // given, and so no mask
  EXPECT_EQ(engine_->generate(shrinking).forward_passes, 4);
  shrinking.config.ignore_eos = true;
  shrinking.config.expand_budget = 0;
  EXPECT_EQ(tokens(shrinking).size(), 4U);
}

TEST_F(ExpandingEngine, RefusesWhatIsForAFixedLength) {
  const auto expect_refused = [&](std::initializer_list<std::string> parts, const auto& change) {
    GenerationRequest wrong = request();
    change(wrong.config);
    testing::expect_error(ErrorCode::kInvalidArgument, parts, [&] { engine_->generate(wrong); });
  };
  using Config = DiffusionGenerationConfig;
  expect_refused({"steps", "fixed length"}, [](Config& c) { c.steps = 4; });
  expect_refused({"threshold", "fixed length"}, [](Config& c) { c.threshold = 0.5; });
  expect_refused({"cache", "fixed length"}, [](Config& c) { c.cache = CacheKind::DUAL; });
  expect_refused({"remasking", "entropy"}, [](Config& c) { c.remasking = Remasking::ORIGIN; });
  expect_refused({"expand_id", "37", "vocabulary"}, [](Config& c) { c.expand_id = 37; });
  expect_refused({"expand_id", "36", "mask token"}, [](Config& c) { c.expand_id = kMask; });
  expect_refused({"initial_masks", "0"}, [](Config& c) { c.initial_masks = 0; });
  expect_refused({"initial_masks", "expand_id"}, [](Config& c) {
    c.expand_id.reset();
    c.initial_masks = 4;
  });
  expect_refused({"editing_threshold", "block-causal"}, [](Config& c) { c.editing_threshold = 0.5; });
  expect_refused({"window_size", "WeDLM"}, [](Config& c) { c.window_size = 4; });
  expect_refused({"max_post_steps", "editing_threshold"}, [](Config& c) { c.max_post_steps = 4; });
}

TEST_F(P2Engine, RefusesBlocksAndCaches) {
  GenerationRequest blocks = request();
  blocks.config.block_length = 4;
  testing::expect_error(ErrorCode::kInvalidArgument, {"block_length", "p2"}, [&] { engine_->generate(blocks); });
  GenerationRequest cached = request();
  cached.config.cache = CacheKind::PREFIX;
  testing::expect_error(ErrorCode::kInvalidArgument, {"cache", "p2"}, [&] { engine_->generate(cached); });
  GenerationRequest threshold = request();
  threshold.config.threshold = 0.5;
  testing::expect_error(ErrorCode::kInvalidArgument, {"p2", "no threshold"}, [&] { engine_->generate(threshold); });
}

class WindowEngine : public WayOf {
 protected:
  WindowEngine() : WayOf(kWindow) {}
};

TEST_F(WindowEngine, PlacesTokensBehindMasks) {
  GenerationRequest best = request();
  best.config.entropy_threshold = 0.0;  // one in each pass, wherever it is
  best.config.pos_penalty_factor = 0.0;
  bool has_hole = false;
  for (const Ids& canvas : canvases(best)) {
    const auto first = std::ranges::find(canvas, -1);
    has_hole = has_hole || std::any_of(first, canvas.end(), [](std::int64_t token) { return token >= 0; });
  }
  EXPECT_TRUE(has_hole);
  GenerationRequest uncached = best;
  uncached.config.cache = CacheKind::NONE;
  EXPECT_EQ(tokens(best), tokens(uncached));
}

TEST_F(WindowEngine, WritesTokenByTokenWhereItHasNone) {
  GenerationRequest single = request();
  single.config.window_size = 0;
  single.config.entropy_threshold.reset();
  model_.config.family = "qwen3";
  const DiffusionEngine causal(model_);
  GenerationRequest plain = single;
  plain.config.window_size.reset();
  EXPECT_EQ(tokens(single), causal.generate(plain).tokens);
  single.config.entropy_threshold = 0.4;
  testing::expect_error(ErrorCode::kInvalidArgument, {"entropy_threshold", "window_size"},
                        [&] { engine_->generate(single); });
}

TEST_F(WindowEngine, LongPromptsAreComputedInPieces) {
  Model model = load_model(folder_ / "model",
                           {.seq_len = 1200, .block_length = {}, .mask_token_id = kMask, .ignored_config_keys = {}});
  model.config.mask_token_id = kMask;
  model.config.family = "wedlm";
  const DiffusionEngine engine(model);
  Ids prompt;
  for (std::int64_t i = 0; i < 1100; ++i) {
    prompt.push_back(i * i % 35);
  }
  GenerationRequest pieces = request(prompt);
  GenerationRequest whole = pieces;
  whole.config.cache = CacheKind::NONE;
  const GenerationResult result = engine.generate(pieces);
  EXPECT_EQ(result.tokens, engine.generate(whole).tokens);
}

TEST_F(WindowEngine, IsNotForAnArtefact) {
  ArtefactFacts facts{.config = model_.config, .max_tokens = 96, .max_step_tokens = 96, .has_cache = false};
  testing::expect_error(ErrorCode::kUnsupported, {"window_size", "token by token"},
                        [&] { generate(facts, [](const ForwardStep&, std::span<float>) {}, request()); });
}

TEST(Canvas, GrowsAndShrinks) {
  Canvas canvas(Ids{1, 2}, 2, Ids{3}, kMask);
  canvas.set(2, 7);
  canvas.insert_mask(2);
  EXPECT_EQ(canvas.tokens(), (Ids{1, 2, kMask, 7, kMask, 3}));
  EXPECT_EQ(canvas.masks(0, canvas.size()), (Ids{2, 4}));
  EXPECT_EQ(canvas.end(), 5);
  canvas.erase(4);
  canvas.mask(3);
  EXPECT_EQ(canvas.tokens(), (Ids{1, 2, kMask, kMask, 3}));
  EXPECT_EQ(canvas.end(), 4);
  canvas.erase(3);
  canvas.erase(2);
  EXPECT_EQ(canvas.written(), 0);
  EXPECT_EQ(canvas.end(), canvas.begin());
}

}  // namespace
}  // namespace diffulex_edge
