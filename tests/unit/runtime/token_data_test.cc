#include "runtime/token_data.h"

#include <gtest/gtest.h>

#include <numeric>
#include <optional>

#include "support/expect_error.h"
#include "support/safetensors_text.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

using Ids = std::vector<std::int64_t>;
using Sequences = std::vector<Ids>;

// One token for each of a, b, c, the space and the line feed.
constexpr const char* kLetters = R"({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
  "model": {"vocab": {"a": 0, "b": 1, "c": 2, "Ġ": 3, "Ċ": 4}, "merges": []}})";

class TokenData : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::write_file(folder_ / "tokenizer.json", kLetters);
    tokenizer_.emplace(folder_.path());
  }
  Sequences read(const std::string& name, const std::string& bytes) {
    testing::write_file(folder_ / name, bytes);
    return read_token_sequences(folder_ / name, &*tokenizer_, options_);
  }
  void expect_refused(const std::string& name, const std::string& bytes, const std::string& part,
                      ErrorCode code = ErrorCode::kBadFile) {
    testing::expect_error(code, {name, part}, [&] { read(name, bytes); });
  }

  testing::TemporaryFolder folder_;
  std::optional<Tokenizer> tokenizer_;
  TokenDataOptions options_{.length = 4, .vocab_size = 5};
};

std::string npy_file(const std::string& header, const std::string& data, char version = 1) {
  std::string text = std::string("\x93NUMPY", 6) + version + '\0';
  const auto length = static_cast<std::uint32_t>(header.size());
  text.append(reinterpret_cast<const char*>(&length), version == 1 ? 2 : 4);
  return text + header + data;
}

std::string npy_header(const std::string& type, const std::string& shape, const std::string& order = "False") {
  return "{'descr': '" + type + "', 'fortran_order': " + order + ", 'shape': " + shape + ", }  \n";
}

template <typename T>
std::string values(std::size_t count) {
  std::vector<T> numbers(count);
  for (std::size_t i = 0; i < count; ++i) {
    numbers[i] = static_cast<T>(i % 5);
  }
  return testing::bytes_of(numbers);
}

TEST_F(TokenData, CutsTextIntoPiecesAndKeepsALastOneOfTwoTokens) {
  EXPECT_EQ(read("x.txt", "abc\n\n \nab\r\n"), (Sequences{{0, 1, 2, 4}, {0, 1}}));
  EXPECT_EQ(read("x.txt", "abcab"), (Sequences{{0, 1, 2, 0}}));
  EXPECT_EQ(read("x.TXT",
                 "\xEF\xBB\xBF"
                 "ab"),
            (Sequences{{0, 1}}));
}

TEST_F(TokenData, JoinsTheTextsOfJsonLines) {
  EXPECT_EQ(read("x.jsonl", "{\"text\": \"abc\"}\n\n{\"text\": \"bc\", \"other\": 1}"), (Sequences{{0, 1, 2, 1}}));
}

TEST_F(TokenData, ReadsIdsOfJsonLines) {
  EXPECT_EQ(read("x.jsonl", "{\"input_ids\": [0, 1]}\r\n{\"input_ids\": [4, 3, 2, 1]}\n"),
            (Sequences{{0, 1}, {4, 3, 2, 1}}));
}

TEST_F(TokenData, ReadsEveryIntegerTypeOfNumpy) {
  const Sequences expected{{0, 1, 2}, {3, 4, 0}};
  EXPECT_EQ(read("x.npy", npy_file(npy_header("<i8", "(2, 3)"), values<std::int64_t>(6))), expected);
  EXPECT_EQ(read("x.npy", npy_file(npy_header("<u8", "(2, 3)"), values<std::uint64_t>(6), 2)), expected);
  EXPECT_EQ(read("x.npy", npy_file(npy_header("<i4", "(2,3)"), values<std::int32_t>(6), 3)), expected);
  EXPECT_EQ(read("x.npy", npy_file(npy_header("<u2", "(2, 3)"), values<std::uint16_t>(6))), expected);
  EXPECT_EQ(read("x.npy", npy_file(npy_header("|i1", "(2, 3)"), values<std::int8_t>(6))), expected);
}

TEST_F(TokenData, ReadsTheInputIdsOfSafetensors) {
  const std::string file = testing::safetensors_file({
      {.name = "input_ids_15", .dtype = DType::kI64, .shape = {1, 2}, .bytes = testing::bytes_of(Ids{0, 1})},
      {.name = "input_ids_50", .dtype = DType::kI64, .shape = {2, 2}, .bytes = testing::bytes_of(Ids{2, 3, 4, 0})},
      {.name = "target_ids_15", .dtype = DType::kI64, .shape = {1, 2}, .bytes = testing::bytes_of(Ids{-100, 900})},
  });
  EXPECT_EQ(read("x.safetensors", file), (Sequences{{0, 1}, {2, 3}, {4, 0}}));
}

TEST_F(TokenData, StopsAtTheGivenNumberOfSequences) {
  options_.max_sequences = 1;
  EXPECT_EQ(read("x.txt", "abcabcabcabc"), (Sequences{{0, 1, 2, 0}}));
  EXPECT_EQ(read("x.jsonl", "{\"text\": \"abcab\"}\nnot read"), (Sequences{{0, 1, 2, 0}}));
  EXPECT_EQ(read("x.npy", npy_file(npy_header("<i8", "(2, 3)"), values<std::int64_t>(6))), (Sequences{{0, 1, 2}}));
}

TEST_F(TokenData, RefusesAnotherExtensionAndSizesThatMakeNoSense) {
  expect_refused("x.csv", "abc", ".txt, .jsonl, .npy and .safetensors", ErrorCode::kInvalidArgument);
  options_.length = 1;
  testing::expect_error(ErrorCode::kInvalidArgument, {"length of 1"}, [&] { read("x.txt", "abc"); });
}

TEST_F(TokenData, RefusesFilesWithNothingToRead) {
  for (const char* name : {"x.txt", "x.jsonl", "x.npy", "x.safetensors"}) {
    expect_refused(name, "", "the file is empty");
  }
  testing::expect_error(ErrorCode::kBadFile, {"absent.txt", "can't open"},
                        [&] { read_token_sequences(folder_ / "absent.txt", &*tokenizer_, options_); });
  expect_refused("x.txt", "a\n\n", "only one token");
  expect_refused("x.txt", "\n \n", "no tokens");
  expect_refused("x.jsonl", "\n", "no tokens");
  expect_refused("x.jsonl", "{\"input_ids\": [1]}", "only one token");
  expect_refused("x.npy", npy_file(npy_header("<i8", "(0, 3)"), ""), "no tokens");
}

TEST_F(TokenData, RefusesBytesThatAreNoText) {
  expect_refused("x.txt", std::string("ab\0c", 4), "a NUL byte");
  expect_refused("x.txt", "ab\xFF", "not text in UTF-8");
  expect_refused("x.jsonl", std::string("{\"text\": \"ab\"}\n\0", 16), "line 2: it is not text: it has a NUL byte");
  expect_refused("x.jsonl", "{\"text\": \"a\\u0000b\"}", "a NUL byte");
}

TEST_F(TokenData, RefusesTextWithoutATokenizer) {
  tokenizer_.reset();
  testing::write_file(folder_ / "x.txt", "abc");
  testing::expect_error(ErrorCode::kBadFile, {"x.txt", "no tokenizer.json"},
                        [&] { read_token_sequences(folder_ / "x.txt", nullptr, options_); });
}

TEST_F(TokenData, NamesTheBrokenLine) {
  expect_refused("x.jsonl", "{\"text\": \"ab\"}\n{\"text\": ", "line 2: not valid JSON");
  expect_refused("x.jsonl", "{\"text\": \"ab\"}\n\n{\"body\": \"ab\"}",
                 "line 3: it is not a JSON object with \"text\"");
  expect_refused("x.jsonl", "[1, 2]", "line 1: it is not a JSON object with");
  expect_refused("x.jsonl", "{\"text\": 1}", "line 1: \"text\" is not a string");
  expect_refused("x.jsonl", "{\"text\": \"ab\"}\n{\"input_ids\": [1, 2]}",
                 "line 2: \"text\" and \"input_ids\" are mixed");
  expect_refused("x.jsonl", "{\"input_ids\": [1, 2]}\n{\"text\": \"ab\"}",
                 "line 2: \"text\" and \"input_ids\" are mixed");
  expect_refused("x.jsonl", "{\"input_ids\": []}", "not a list of token ids");
  expect_refused("x.jsonl", "{\"input_ids\": \"ab\"}", "not a list of token ids");
  expect_refused("x.jsonl", "{\"input_ids\": [1, 2.5]}", "a value that is not a token id");
  expect_refused("x.jsonl", "{\"input_ids\": [1, 18446744073709551615]}", "a value that is not a token id");
  expect_refused("x.jsonl", std::string(200, '[') + std::string(200, ']'), "nested deeper");
}

TEST_F(TokenData, RefusesIdsOutsideTheVocabulary) {
  expect_refused("x.jsonl", "{\"input_ids\": [1, 5]}", "the token id 5 is outside the model's vocabulary of 5");
  expect_refused("x.jsonl", "{\"input_ids\": [1, -1]}", "the token id -1");
  expect_refused("x.npy", npy_file(npy_header("|u1", "(1, 2)"), "\x01\xFF"), "row 0: the token id 255");
  expect_refused("x.npy", npy_file(npy_header("|i1", "(1, 2)"), "\x01\xFF"), "row 0: the token id -1");
  options_.vocab_size = 2;
  expect_refused("x.txt", "abc", "the token id 2");
}

TEST_F(TokenData, RefusesRowsThatAreTooLong) {
  expect_refused("x.jsonl", "{\"input_ids\": [0, 0, 0, 0, 0]}", "5 tokens, more than the length of 4");
  expect_refused("x.npy", npy_file(npy_header("<i8", "(1, 5)"), values<std::int64_t>(5)), "cut the data");
  expect_refused(
      "x.safetensors",
      testing::safetensors_file(
          {{.name = "input_ids_1", .dtype = DType::kI64, .shape = {1, 5}, .bytes = values<std::int64_t>(5)}}),
      "5 tokens, more than");
}

TEST_F(TokenData, RefusesNumpyFilesOfAnotherKind) {
  const std::string data = values<std::int64_t>(6);
  expect_refused("x.npy", "not numpy at all", "does not begin as a .npy file");
  expect_refused("x.npy", npy_file(npy_header("<i8", "(2, 3)"), data, 9), "version 9");
  expect_refused("x.npy", npy_file(npy_header("<f8", "(2, 3)"), data), "not little-endian integers");
  expect_refused("x.npy", npy_file(npy_header(">i8", "(2, 3)"), data), "not little-endian integers");
  expect_refused("x.npy", npy_file(npy_header("|O", "(2, 3)"), data), "not little-endian integers");
  expect_refused("x.npy", npy_file(npy_header("<i8", "(2, 3)", "True"), data), "Fortran order");
  expect_refused("x.npy", npy_file(npy_header("<i8", "(6,)"), data), "1 dimensions");
  expect_refused("x.npy", npy_file(npy_header("<i8", "(1, 2, 3)"), data), "3 dimensions");
  expect_refused("x.npy", npy_file(npy_header("<i8", "(x, 3)"), data), "'shape'");
  expect_refused("x.npy", npy_file(npy_header("<i8", "(-2, 3)"), data), "'shape'");
  expect_refused("x.npy", npy_file("{'descr': '<i8'}", data), "lacks");
}

TEST_F(TokenData, ChecksNumpySizesAgainstTheFile) {
  const std::string whole = npy_file(npy_header("<i8", "(2, 3)"), values<std::int64_t>(6));
  for (const std::size_t length : {7U, 8U, 9U, 11U, 40U}) {
    testing::expect_error(ErrorCode::kBadFile, {"x.npy"}, [&] { read("x.npy", whole.substr(0, length)); });
  }
  expect_refused("x.npy", whole.substr(0, whole.size() - 1), "truncated");
  expect_refused("x.npy", whole + "x", "49 bytes follow");
  expect_refused("x.npy", npy_file(npy_header("<i8", "(1099511627776, 4)"), ""), "truncated");
  expect_refused("x.npy", npy_file(npy_header("<i8", "(9223372036854775807, 9223372036854775807)"), ""), "truncated");
  expect_refused("x.npy", npy_file(npy_header("<i8", "(99999999999999999999, 1)"), ""), "'shape'");
}

TEST_F(TokenData, RefusesSafetensorsOfAnotherKind) {
  expect_refused(
      "x.safetensors",
      testing::safetensors_file(
          {{.name = "input_ids_1", .dtype = DType::kI32, .shape = {1, 2}, .bytes = values<std::int32_t>(2)}}),
      "not an int64 tensor");
  expect_refused("x.safetensors",
                 testing::safetensors_file(
                     {{.name = "input_ids_1", .dtype = DType::kI64, .shape = {2}, .bytes = values<std::int64_t>(2)}}),
                 "not an int64 tensor");
  expect_refused("x.safetensors",
                 testing::safetensors_file(
                     {{.name = "x", .dtype = DType::kI64, .shape = {1, 2}, .bytes = values<std::int64_t>(2)}}),
                 "no tensor whose name begins with input_ids_");
}

}  // namespace
}  // namespace diffulex_edge
