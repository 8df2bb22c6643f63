#include "backends/cache_plan.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "diffulex_edge/error.h"
#include "support/expect_error.h"

namespace diffulex_edge {
namespace {

using Given = std::map<std::string, std::string>;
using Sizes = std::vector<std::int64_t>;

BackendDescription described(LengthSupport lengths) {
  BackendDescription description{.name = "test", .title = "Test", .lengths = lengths};
  description.options = {cache_option(), block_tokens_option(lengths)};
  if (lengths == LengthSupport::kUpTo) {
    description.options.push_back({.name = "cache_dtype",
                                   .type = BackendOption::Type::kChoice,
                                   .default_value = "fp16",
                                   .choices = {{"fp16"}, {"fp32"}}});
  }
  return description;
}

Model model(std::int64_t block_length) {
  Model model;
  model.config.family = "sdar";
  model.config.max_positions = 1000;
  model.config.block_length = block_length;
  return model;
}

std::optional<CachePlan> read(const Given& given, std::int64_t block_length,
                              LengthSupport lengths = LengthSupport::kAny) {
  const BackendDescription description = described(lengths);
  return read_cache_plan(OptionValues(description, given), model(block_length));
}

TEST(CachePlans, AreNoneWithoutTheOption) { EXPECT_FALSE(read({}, 4)); }

TEST(CachePlans, HaveTheModelsBlockAndLongerSteps) {
  EXPECT_EQ(read({{"cache", "512"}}, 4)->block_sizes, (Sizes{4, 64}));
  EXPECT_EQ(read({{"cache", "512"}}, 1)->block_sizes, (Sizes{1, 64}));
  EXPECT_EQ(read({{"cache", "512"}}, 0)->block_sizes, (Sizes{32, 512}));
  EXPECT_EQ(read({{"cache", "512"}}, 4, LengthSupport::kUpTo)->block_sizes, (Sizes{128}));
  EXPECT_EQ(read({{"cache", "512"}}, 0, LengthSupport::kUpTo)->block_sizes, (Sizes{512}));
}

TEST(CachePlans, HaveNoStepThatDoesNotFit) {
  EXPECT_EQ(read({{"cache", "4"}}, 4)->block_sizes, (Sizes{4}));
  EXPECT_EQ(read({{"cache", "32"}}, 0)->block_sizes, (Sizes{32}));
  EXPECT_EQ(read({{"cache", "16"}}, 0)->block_sizes, (Sizes{16}));
  EXPECT_EQ(read({{"cache", "100"}}, 4, LengthSupport::kUpTo)->block_sizes, (Sizes{100}));
}

TEST(CachePlans, SortTheSizesThatWereGiven) {
  const std::optional<CachePlan> plan = read({{"cache", "512"}, {"block_tokens", "64,4,64"}}, 4);
  EXPECT_EQ(plan->block_sizes, (Sizes{4, 64}));
  EXPECT_EQ(plan->block_tokens, 64);
  EXPECT_FALSE(plan->is_bidirectional);
  EXPECT_TRUE(read({{"cache", "512"}}, 0)->is_bidirectional);
}

TEST(CachePlans, RefuseWhatCanNotBe) {
  const auto refused = [](const Given& given, const std::string& sentence,
                          LengthSupport lengths = LengthSupport::kAny) {
    testing::expect_error(ErrorCode::kInvalidArgument, {sentence}, [&] { read(given, 4, lengths); });
  };
  refused({{"block_tokens", "4"}},
          "cache: is off: block tokens, cache dtype and logits go with it (give --cache TOKENS too)");
  refused({{"cache_dtype", "fp32"}},
          "cache: is off: block tokens, cache dtype and logits go with it (give --cache TOKENS too)",
          LengthSupport::kUpTo);
  refused({{"cache", "1001"}}, "cache: of 1001 tokens is longer than the model's context of 1000");
  refused({{"cache", "64"}, {"block_tokens", "65"}},
          "block tokens: 65 is not between the model's block of 4 and the cache's 64");
  refused({{"cache", "64"}, {"block_tokens", "3"}},
          "block tokens: 3 is not between the model's block of 4 and the cache's 64");
  for (const char* text : {"x", "0", "-4", "4x", "99999999999999999999"}) {
    refused({{"cache", "64"}, {"block_tokens", text}},
            "block tokens: '" + std::string(text) +
                "' is not a number of tokens (give one, or several with commas between them)");
  }
  refused({{"cache", "64"}, {"block_tokens", "4,8"}},
          "block tokens: a step has any number of tokens up to one (give only the largest)", LengthSupport::kUpTo);
}

TEST(CachePlans, AreOfLanguageModels) {
  const BackendDescription description = described(LengthSupport::kAny);
  const OptionValues options(description, {{"cache", "64"}});
  testing::expect_error(ErrorCode::kUnsupported, {"cache: is for language models from a checkpoint (leave it out)"},
                        [&] { read_cache_plan(options, Model()); });
}

}  // namespace
}  // namespace diffulex_edge
