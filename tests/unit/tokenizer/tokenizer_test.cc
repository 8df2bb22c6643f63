#include "diffulex_edge/tokenizer.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

using nlohmann::json;
using Ids = std::vector<std::int64_t>;

// Tokens of "a", "b", "c" and the space, by byte-level BPE with GPT-2's pattern.
json small_tokenizer() {
  return json::parse(R"({
    "added_tokens": [{"id": 9, "content": "<m>", "special": true}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE",
      "vocab": {"a": 0, "b": 1, "c": 2, "Ġ": 3, "ab": 4, "Ġab": 5, "bc": 6, "Ã": 7, "©": 8},
      "merges": [["a", "b"], "Ġ ab", ["b", "c"]]}
  })");
}

class TokenizerTest : public ::testing::Test {
 protected:
  Tokenizer load(const json& document) { return load_text(document.dump()); }
  Tokenizer load_text(const std::string& text) {
    testing::write_file(folder_ / "tokenizer.json", text);
    return Tokenizer(folder_.path());
  }
  void expect_refused(ErrorCode code, const json& document, const std::string& part) {
    testing::expect_error(code, {"tokenizer.json", part}, [&] { load(document); });
  }
  // The document with another value at `pointer`.
  void expect_refused_with(ErrorCode code, const char* pointer, const json& value, const std::string& part) {
    json document = small_tokenizer();
    document[json::json_pointer(pointer)] = value;
    expect_refused(code, document, part);
  }
  testing::TemporaryFolder folder_;
};

TEST_F(TokenizerTest, MergesByRankAndFromTheLeft) {
  const Tokenizer tokenizer = load(small_tokenizer());
  EXPECT_EQ(tokenizer.encode("abc ab"), (Ids{4, 2, 5}));
  EXPECT_EQ(tokenizer.encode("bcab"), (Ids{6, 4}));
  EXPECT_EQ(tokenizer.encode(""), Ids{});
  EXPECT_EQ(tokenizer.encode("é"), (Ids{7, 8}));
}

TEST_F(TokenizerTest, FindsAddedTokensInText) {
  json document = small_tokenizer();
  EXPECT_EQ(load(document).encode("ab<m> ab"), (Ids{4, 9, 5}));
  document["added_tokens"][0]["lstrip"] = true;
  document["added_tokens"][0]["rstrip"] = true;
  EXPECT_EQ(load(document).encode("ab \n<m> ab"), (Ids{4, 9, 4}));
  document["added_tokens"][0]["single_word"] = true;
  EXPECT_EQ(load(document).encode("ab<m> <m>c"), (Ids{4, 3, 2}));  // "<", "m" and ">" are no tokens
  EXPECT_EQ(load(document).encode("<m>.<m>"), (Ids{9, 9}));
}

TEST_F(TokenizerTest, TakesTheLongestAddedToken) {
  json document = small_tokenizer();
  document["added_tokens"].push_back({{"id", 10}, {"content", "<m><m>"}, {"special", true}});
  EXPECT_EQ(load(document).encode("<m><m><m>"), (Ids{10, 9}));
}

TEST_F(TokenizerTest, DecodesBytesAndReplacesWhatIsNotUtf8) {
  const Tokenizer tokenizer = load(small_tokenizer());
  EXPECT_EQ(tokenizer.decode(Ids{4, 5, 9, 7, 8}), "ab ab<m>é");
  EXPECT_EQ(tokenizer.decode(Ids{7, 0, 8}),
            "\xEF\xBF\xBD"
            "a\xEF\xBF\xBD");
  EXPECT_EQ(tokenizer.decode(Ids{0, -1, 1000, 1}), "ab");
}

TEST_F(TokenizerTest, KnowsItsTokens) {
  const Tokenizer tokenizer = load(small_tokenizer());
  EXPECT_EQ(tokenizer.vocab_size(), 10);
  EXPECT_EQ(tokenizer.id_of("Ġab"), 5);
  EXPECT_EQ(tokenizer.id_of("<m>"), 9);
  EXPECT_FALSE(tokenizer.id_of("absent").has_value());
}

TEST_F(TokenizerTest, NormalizesBeforeItCuts) {
  json document = small_tokenizer();
  document["normalizer"] = {{"type", "Sequence"}, {"normalizers", {{{"type", "NFD"}}, {{"type", "NFC"}}}}};
  EXPECT_EQ(load(document).encode("e\xCC\x81"), (Ids{7, 8}));
}

TEST_F(TokenizerTest, TakesWholeWordsWhereMergesAreIgnored) {
  json document = small_tokenizer();
  document["model"]["vocab"]["abc"] = 9;
  document["added_tokens"][0]["id"] = 10;
  EXPECT_EQ(load(document).encode("abc"), (Ids{4, 2}));
  document["model"]["ignore_merges"] = true;
  EXPECT_EQ(load(document).encode("abc"), (Ids{9}));
}

TEST_F(TokenizerTest, RefusesTextThatIsNotUtf8) {
  const Tokenizer tokenizer = load(small_tokenizer());
  for (const char* text : {"ab\xFF", "ab\xC3", "ab\xC0\x80", "ab\xED\xA0\x80", "ab\xF4\x90\x80\x80"}) {
    testing::expect_error(ErrorCode::kInvalidArgument, {"not valid UTF-8 at byte 2"}, [&] { tokenizer.encode(text); });
  }
}

TEST_F(TokenizerTest, NamesAComponentThatItDoesNotKnow) {
  const auto unsupported = ErrorCode::kUnsupported;
  expect_refused_with(unsupported, "/model/type", "WordLevel", "'WordLevel'");
  expect_refused_with(unsupported, "/model/dropout", 0.1, "'dropout'");
  expect_refused_with(unsupported, "/normalizer", {{"type", "Odd"}}, "'Odd'");
  expect_refused_with(unsupported, "/pre_tokenizer", {{"type", "UnicodeScripts"}}, "'UnicodeScripts'");
  expect_refused_with(unsupported, "/decoder", {{"type", "CTC"}}, "'CTC'");
  const json odd = {{"type", "Split"}, {"pattern", {{"String", "a"}}}, {"behavior", "Odd"}};
  expect_refused_with(unsupported, "/pre_tokenizer", odd, "'Odd'");
}

TEST_F(TokenizerTest, RefusesABrokenFile) {
  const auto bad = ErrorCode::kBadFile;
  testing::expect_error(bad, {"can't open"}, [&] { Tokenizer(folder_.path() / "absent.json"); });
  testing::expect_error(bad, {"not valid JSON"}, [&] { load_text("{"); });
  testing::expect_error(bad, {"not a JSON object"}, [&] { load_text("[]"); });
  testing::expect_error(bad, {"'model' is missing"}, [&] { load_text("{}"); });
  expect_refused_with(bad, "/model/vocab", json::array(), "'vocab'");
  expect_refused_with(bad, "/model/vocab", json::object(), "'vocab'");
  expect_refused_with(bad, "/model/vocab/a", -1, "the id -1");
  expect_refused_with(bad, "/model/vocab/a", 4294967296, "the id 4294967296");
  expect_refused_with(bad, "/model/vocab/a", "0", "'a'");
  expect_refused_with(bad, "/model/vocab/a", 1, "the same id 1");
  expect_refused_with(bad, "/model/merges", "a b", "'merges' is not a list");
  expect_refused_with(bad, "/model/merges/1", "ab", "'merges' number 1");
  expect_refused_with(bad, "/model/merges/1", "a b c", "'merges' number 1");
  expect_refused_with(bad, "/model/merges/1", {"a", 1}, "'merges' number 1");
  expect_refused_with(bad, "/model/merges/1", {"a", "x"}, "'x'");
  expect_refused_with(bad, "/model/merges/1", {"a", "c"}, "'ac'");
  expect_refused_with(bad, "/model/unk_token", 1, "'unk_token'");
  expect_refused_with(bad, "/model/ignore_merges", 1, "'ignore_merges'");
  expect_refused_with(bad, "/pre_tokenizer", "ByteLevel", "'pre_tokenizer'");
  expect_refused_with(bad, "/pre_tokenizer", json::object(), "'type' is missing");
  expect_refused_with(bad, "/normalizer", {{"type", "Sequence"}}, "'normalizers' is missing");
  expect_refused_with(bad, "/added_tokens", json::object(), "'added_tokens'");
  expect_refused_with(bad, "/added_tokens/0/content", "", "is empty");
  expect_refused_with(bad, "/added_tokens/0/content", 1, "'content'");
  expect_refused_with(bad, "/added_tokens/0/id", 1.5, "'id'");
  expect_refused_with(bad, "/added_tokens/0/id", 20, "would give it 9");
  expect_refused_with(bad, "/added_tokens/1", {{"id", 10}, {"content", "<m>"}}, "is there twice");
}

TEST_F(TokenizerTest, NeedsTheUnknownTokenOnlyForWhatIsUnknown) {
  json document = small_tokenizer();
  document["model"]["unk_token"] = "absent";
  const Tokenizer tokenizer = load(document);
  EXPECT_EQ(tokenizer.encode("ab"), (Ids{4}));
  testing::expect_error(ErrorCode::kBadFile, {"'x'", "'unk_token'"}, [&] { tokenizer.encode("x"); });
  document["model"]["unk_token"] = "a";
  EXPECT_EQ(load(document).encode("bx"), (Ids{1, 0}));
}

TEST_F(TokenizerTest, RefusesStepsWithoutEnd) {
  const json forms = {{"type", "Sequence"}, {"normalizers", std::vector<json>(1000, {{"type", "NFC"}})}};
  expect_refused_with(ErrorCode::kBadFile, "/normalizer", forms, "more than 64 steps");
  const json steps = {{"type", "Sequence"}, {"pretokenizers", std::vector<json>(1000, {{"type", "ByteLevel"}})}};
  expect_refused_with(ErrorCode::kBadFile, "/pre_tokenizer", steps, "more than 64 steps");
}

TEST_F(TokenizerTest, ServesSeveralThreads) {
  const Tokenizer tokenizer = load(small_tokenizer());
  std::vector<Ids> results(4);
  {
    std::vector<std::jthread> threads;
    for (Ids& result : results) {
      threads.emplace_back([&tokenizer, &result] {
        for (int i = 0; i < 100; ++i) {
          result = tokenizer.encode("abc ab<m>é");
        }
      });
    }
  }
  for (const Ids& result : results) {
    EXPECT_EQ(result, (Ids{4, 2, 5, 9, 7, 8}));
  }
}

TEST_F(TokenizerTest, EncodesALongWordInReasonableTime) {
  const Tokenizer tokenizer = load(small_tokenizer());
  std::string word;
  for (int i = 0; i < 500'000; ++i) {
    word += "ab";
  }
  EXPECT_EQ(tokenizer.encode(word).size(), 500'000U);
}

TEST(TokenizerOfTheBundledModel, RoundTrips) {
  const Tokenizer tokenizer(std::filesystem::path(DIFFULEX_EDGE_EXAMPLES_DIR) / "tiny-llada");
  EXPECT_EQ(tokenizer.vocab_size(), 1024);
  const std::string text = "In the beginning God created the heaven and the earth. \n\t 1:1 \xF0\x9F\x8C\x8D";
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
}

}  // namespace
}  // namespace diffulex_edge
