// A bundle knows all files that its tokenizer is read from.
#include <gtest/gtest.h>

#include <span>
#include <string>

#include "bundle/bundle.h"
#include "core/sha256.h"
#include "diffulex_edge/tokenizer.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

std::string digest(const std::string& text) {
  Sha256 hash;
  hash.add(std::as_bytes(std::span(text)));
  return hash.finish();
}

std::vector<std::string> names(const std::vector<std::filesystem::path>& files) {
  std::vector<std::string> names;
  for (const std::filesystem::path& file : files) {
    names.push_back(file.filename().string());
  }
  return names;
}

class TokenizerDigestTest : public ::testing::Test {
 protected:
  void write(const char* name, const std::string& text) { testing::write_file(folder_ / name, text); }
  testing::TemporaryFolder folder_;
};

TEST_F(TokenizerDigestTest, IsThatOfTheOneFile) {
  EXPECT_FALSE(tokenizer_digest(folder_.path()).has_value());
  write("vocab.json", "{}");
  EXPECT_FALSE(tokenizer_digest(folder_.path()).has_value()) << "nothing without merges.txt";
  write("tokenizer.json", "{}");
  write("tokenizer_config.json", "{}");
  EXPECT_EQ(tokenizer_digest(folder_.path()), digest("{}"));
}

TEST_F(TokenizerDigestTest, IsThatOfTheLinesOfAllFiles) {
  write("vocab.json", "1");
  write("merges.txt", "2");
  write("tokenizer_config.json", R"({"tokenizer_class": "Qwen2Tokenizer"})");
  write("config.json", "4");
  EXPECT_EQ(names(tokenizer_files(folder_.path())),
            (std::vector<std::string>{"vocab.json", "merges.txt", "tokenizer_config.json"}));
  const std::string config = digest(R"({"tokenizer_class": "Qwen2Tokenizer"})");
  EXPECT_EQ(tokenizer_digest(folder_.path()), digest(digest("2") + "  merges.txt\n" + config +
                                                     "  tokenizer_config.json\n" + digest("1") + "  vocab.json\n"));
}

TEST_F(TokenizerDigestTest, NeedsTheModelsTypeWhereNoClassIsSaid) {
  write("tokenizer.model", "1");
  write("config.json", R"({"model_type": "llama"})");
  EXPECT_EQ(names(tokenizer_files(folder_.path())), (std::vector<std::string>{"tokenizer.model", "config.json"}));
}

}  // namespace
}  // namespace diffulex_edge
