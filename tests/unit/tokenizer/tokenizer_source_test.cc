// Tokenizers from structures, without files: what byte fallback, Unigram and WordPiece do, and what they refuse.
#include "tokenizer/tokenizer_source.h"

#include <gtest/gtest.h>

#include <limits>

#include "diffulex_edge/tokenizer.h"
#include "support/expect_error.h"

namespace diffulex_edge {
namespace {

using Ids = std::vector<std::int64_t>;
using nlohmann::json;

Vocabulary vocabulary_of(const std::vector<std::string>& tokens) {
  Vocabulary vocabulary;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    vocabulary.add(tokens[i], static_cast<std::int64_t>(i));
  }
  return vocabulary;
}

json metaspace(const char* scheme) {
  return {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", scheme}, {"split", false}};
}

json byte_fallback_decoder() {
  return json::parse(R"({"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})");
}

// "▁ab", and the bytes of é and of the euro sign.
TokenizerSource byte_fallback_source() {
  TokenizerSource source{.where = "memory", .pre_tokenizer = metaspace("first"), .decoder = byte_fallback_decoder()};
  source.model = BpeSource{.vocabulary = vocabulary_of(
                               {"<unk>", "<0xC3>", "<0xA9>", "<0xE2>", "<0x82>", "<0xAC>", "▁", "a", "b", "ab", "▁ab"}),
                           .merges = {{"a", "b"}, {"▁", "ab"}},
                           .unknown_token = "<unk>",
                           .fuses_unknown = true,
                           .has_byte_fallback = true};
  return source;
}

TokenizerSource unigram_source() {
  TokenizerSource source{.where = "memory"};
  source.model = UnigramSource{.tokens = {{"<unk>", 0.0}, {"a", -1.0}, {"b", -1.0}, {"ab", -1.5}, {"abab", -9.0}},
                               .unknown_id = 0};
  return source;
}

TEST(ByteFallback, SpellsUnknownCharactersByByte) {
  const Tokenizer tokenizer(byte_fallback_source());
  EXPECT_EQ(tokenizer.encode("abé ab"), (Ids{10, 1, 2, 10}));
  EXPECT_EQ(tokenizer.encode("abxy"), (Ids{10, 0})) << "no bytes of these: one unknown token for both";
  EXPECT_EQ(tokenizer.decode(Ids{10, 1, 2, 10}), "abé ab");
}

TEST(ByteFallback, TakesARunOfBytesAsAWhole) {
  const Tokenizer tokenizer(byte_fallback_source());
  EXPECT_EQ(tokenizer.decode(Ids{1, 2, 3}), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD") << "as Hugging Face has it";
  EXPECT_EQ(tokenizer.decode_settled(Ids{10, 1, 2, 3}), "ab") << "the next byte decides";
  EXPECT_EQ(tokenizer.decode_settled(Ids{10, 1, 2, 7}), "abéa");
}

TEST(Metaspace, AddsASpaceWhereTheInputBegins) {
  TokenizerSource source = byte_fallback_source();
  source.added_tokens = {{.id = 11, .content = "<m>", .special = true}};
  const Tokenizer tokenizer(std::move(source));
  EXPECT_EQ(tokenizer.encode("ab<m>ab"), (Ids{10, 11, 9}));
  EXPECT_EQ(tokenizer.encode("<m>ab"), (Ids{11, 9}));
}

TEST(Metaspace, KeepsASpaceThatBeginsNoText) {
  const Tokenizer tokenizer(byte_fallback_source());
  EXPECT_EQ(tokenizer.decode(Ids{10}), "ab");
  EXPECT_EQ(tokenizer.decode_continuation(Ids{10}), " ab");
}

TEST(Unigram, TakesTheMostProbableTokens) {
  const Tokenizer tokenizer(unigram_source());
  EXPECT_EQ(tokenizer.encode("abab"), (Ids{3, 3}));
  EXPECT_EQ(tokenizer.encode("axyb"), (Ids{1, 0, 2})) << "one unknown token for both";
}

TEST(Unigram, EncodesALongTextInReasonableTime) {
  const Tokenizer tokenizer(unigram_source());
  std::string text;
  for (int i = 0; i < 500'000; ++i) {
    text += "ab";
  }
  EXPECT_EQ(tokenizer.encode(text).size(), 500'000U);
}

TEST(Unigram, RefusesABrokenModel) {
  const auto refuse = [](const UnigramSource& model, const char* part) {
    testing::expect_error(ErrorCode::kBadFile, {"memory", part},
                          [&] { Tokenizer(TokenizerSource{.where = "memory", .model = model}); });
  };
  refuse({}, "no tokens");
  refuse({.tokens = {{"a", 0.0}}, .unknown_id = 1}, "'unk_id' is 1");
  refuse({.tokens = {{"a", std::numeric_limits<double>::quiet_NaN()}}}, "not finite");
  refuse({.tokens = {{std::string(600, 'a'), 0.0}}}, "600 bytes");
  const Tokenizer without_unknown(TokenizerSource{.where = "memory", .model = UnigramSource{.tokens = {{"a", 0.0}}}});
  testing::expect_error(ErrorCode::kBadFile, {"'x'", "unk_id"}, [&] { without_unknown.encode("x"); });
}

TEST(WordPiece, TakesTheLongestTokens) {
  TokenizerSource source{.where = "memory", .pre_tokenizer = {{"type", "BertPreTokenizer"}}};
  source.decoder = {{"type", "WordPiece"}};
  source.model =
      WordPieceSource{.vocabulary = vocabulary_of({"[UNK]", "a", "ab", "##b", "##ba", "."}), .max_word_characters = 5};
  const Tokenizer tokenizer(std::move(source));
  EXPECT_EQ(tokenizer.encode("abba ab."), (Ids{2, 4, 2, 5}));
  EXPECT_EQ(tokenizer.encode("abx"), (Ids{0})) << "all of the word is unknown";
  EXPECT_EQ(tokenizer.encode("abbbbb"), (Ids{0})) << "too long";
  EXPECT_EQ(tokenizer.decode(Ids{2, 4, 2, 5}), "abba ab.");
}

TEST(Normalizer, DoesNotFillTheMemory) {
  TokenizerSource source = unigram_source();
  const json step = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", std::string(1000, 'a')}};
  source.normalizer = {{"type", "Sequence"}, {"normalizers", std::vector<json>(20, step)}};
  const Tokenizer tokenizer(std::move(source));
  testing::expect_error(ErrorCode::kUnsupported, {"make more than"}, [&] { tokenizer.encode("a"); });
}

}  // namespace
}  // namespace diffulex_edge
