#include "diffusion/text_stream.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "support/temporary_folder.h"
#include "tokenizer/tokenizer_source.h"

namespace diffulex_edge {
namespace {

// One token for each byte of "aé" and its kin: Ã and © are the two bytes of é.
class TextStreamTest : public ::testing::Test {
 protected:
  TextStreamTest() {
    const auto document = nlohmann::json::parse(R"({
      "added_tokens": [{"id": 6, "content": "<end>", "special": true}],
      "normalizer": null,
      "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
      "decoder": {"type": "ByteLevel"},
      "post_processor": {"type": "Sequence", "processors": [
        {"type": "ByteLevel", "trim_offsets": true},
        {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<end>", "type_id": 0}},
          {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<end>", "type_id": 0}}],
         "pair": [], "special_tokens": {"<end>": {"id": "<end>", "ids": [6], "tokens": ["<end>"]}}}]},
      "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "Ã": 3, "©": 4, "Ġ": 5}, "merges": []}
    })");
    testing::write_file(folder_ / "tokenizer.json", document.dump());
    tokenizer_.emplace(folder_.path());
  }

  // What comes with each token, and in the end.
  std::vector<std::string> pieces(const std::vector<std::int64_t>& tokens, std::vector<std::string> stops = {}) {
    TextStream stream(*tokenizer_, {6}, std::move(stops));
    std::vector<std::string> texts;
    for (std::size_t i = 1; i <= tokens.size(); ++i) {
      texts.push_back(stream.take(std::span(tokens).first(i)));
    }
    texts.push_back(stream.finish());
    text_ = stream.text();
    is_stopped_ = stream.is_stopped();
    return texts;
  }

  testing::TemporaryFolder folder_;
  std::optional<Tokenizer> tokenizer_;
  std::string text_;
  bool is_stopped_ = false;
};

using Texts = std::vector<std::string>;

TEST_F(TextStreamTest, NeverCutsACharacter) {
  EXPECT_EQ(pieces({0, 3, 4, 1}), (Texts{"a", "", "é", "b", ""}));
  EXPECT_EQ(pieces({0, 3}), (Texts{"a", "", "\xEF\xBF\xBD"})) << "half a character at the end";
}

TEST_F(TextStreamTest, HidesSpecialTokens) { EXPECT_EQ(pieces({0, 6, 1}), (Texts{"a", "", "b", ""})); }

TEST_F(TextStreamTest, EndsBeforeAStop) {
  EXPECT_EQ(pieces({0, 1, 2, 0}, {"bc"}), (Texts{"a", "", "", "", ""}));
  EXPECT_EQ(text_, "a");
  EXPECT_TRUE(is_stopped_);
  EXPECT_EQ(pieces({0, 1, 0, 2}, {"bc"}), (Texts{"a", "", "ba", "c", ""})) << "what only began like it comes later";
  EXPECT_EQ(pieces({0, 1}, {"bc"}), (Texts{"a", "", "b"}));
  EXPECT_FALSE(is_stopped_);
  EXPECT_EQ(pieces({0, 1, 2}, {"c", "b"}), (Texts{"a", "", "", ""})) << "the first in the text";
}

// Byte fallback writes a run of bytes as text or as U+FFFD, all of it: the byte behind it decides.
TEST(TextStreamOfByteFallback, HoldsARunOfBytesBack) {
  TokenizerSource source{.where = "memory"};
  BpeSource bpe;
  const std::vector<std::string> tokens = {"▁a", "▁", "<0xC3>", "<0xA9>"};
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    bpe.vocabulary.add(tokens[i], static_cast<std::int64_t>(i));
  }
  source.model = std::move(bpe);
  source.decoder = nlohmann::json::parse(R"({"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})");
  const Tokenizer tokenizer(std::move(source));
  const auto pieces = [&](const std::vector<std::int64_t>& ids) {
    TextStream stream(tokenizer, {}, {});
    Texts texts;
    for (std::size_t i = 1; i <= ids.size(); ++i) {
      texts.push_back(stream.take(std::span(ids).first(i)));
    }
    texts.push_back(stream.finish());
    EXPECT_EQ(stream.text(), tokenizer.decode(ids));
    return texts;
  };
  EXPECT_EQ(pieces({0, 2, 3, 0}), (Texts{"a", "", "", "é a", ""}));
  EXPECT_EQ(pieces({0, 2, 3}), (Texts{"a", "", "", "é"}));
  EXPECT_EQ(pieces({2, 3, 2, 0}), (Texts{"", "", "", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD a", ""}));
}

TEST_F(TextStreamTest, KnowsWhatBeginsASequence) {
  EXPECT_EQ(tokenizer_->begin_ids(), (std::vector<std::int64_t>{6}));
  EXPECT_TRUE(tokenizer_->is_special(6));
  EXPECT_FALSE(tokenizer_->is_special(0));
}

}  // namespace
}  // namespace diffulex_edge
