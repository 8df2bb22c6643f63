// read_json_file at its limits.

#include <gtest/gtest.h>

#include "core/json.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

class JsonLimits : public ::testing::Test {
 protected:
  nlohmann::json read(const std::string& text, std::size_t limit = 1'000'000) {
    testing::write_file(folder_ / "x.json", text);
    return read_json_file(folder_ / "x.json", limit);
  }
  testing::TemporaryFolder folder_;
};

TEST_F(JsonLimits, TakesExactlyTheAllowedBytes) {
  EXPECT_NO_THROW(read("[1,2]", 5));
  testing::expect_error(ErrorCode::kBadFile, {"5 bytes", "(4)"}, [&] { read("[1,2]", 4); });
}

TEST_F(JsonLimits, TakesSixtyFourLevelsAndNoMore) {
  const auto nested = [](std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_NO_THROW(read(nested(64)));
  testing::expect_error(ErrorCode::kBadFile, {"nested deeper than 64"}, [&] { read(nested(65)); });
  // 500,000 levels must not exhaust the stack either.
  testing::expect_error(ErrorCode::kBadFile, {"nested deeper"}, [&] { read(std::string(500'000, '[')); });
  std::string objects;
  for (int i = 0; i < 70; ++i) {
    objects += "{\"a\":";
  }
  testing::expect_error(ErrorCode::kBadFile, {"nested deeper"}, [&] { read(objects); });
}

TEST_F(JsonLimits, RefusesEveryTruncation) {
  const std::string whole = R"({"a": [1.5, "x\u00e9", {"b": null}], "c": true})";
  EXPECT_NO_THROW(read(whole));
  for (std::size_t size = 0; size < whole.size(); ++size) {
    testing::expect_error(ErrorCode::kBadFile, {"x.json"}, [&] { read(whole.substr(0, size)); });
  }
}

TEST_F(JsonLimits, FindsADuplicateKeyAtAnyDepthAndInAnySpelling) {
  for (const char* text : {R"({"a": {"b": 1, "b": 2}})", R"([{"b": 1, "c": {}, "b": 2}])", R"({"b": 1, "\u0062": 2})",
                           R"({"b": {"b": 1}, "b": 2})"}) {
    testing::expect_error(ErrorCode::kBadFile, {"'b' appears twice"}, [&] { read(text); });
  }
}

TEST_F(JsonLimits, RefusesTrailingTextAndOtherDialects) {
  for (const char* text : {"{} {}", "{}x", "{'a': 1}", "{a: 1}", "[1,]", "[NaN]", "[Infinity]", "[01]", "[1.]", "[+1]",
                           "// x\n{}", "\"\\ud800\"", "\"\t\""}) {
    testing::expect_error(ErrorCode::kBadFile, {"not valid JSON"}, [&] { read(text); });
  }
}

TEST_F(JsonLimits, SaysWhereTheTextIsWrong) {
  testing::expect_error(ErrorCode::kBadFile, {"line 2, column 5"}, [&] { read("{\n\"a\" 1}"); });
}

}  // namespace
}  // namespace diffulex_edge
