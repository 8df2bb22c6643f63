#include "core/json.h"

#include <gtest/gtest.h>

#include <cmath>

#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

class ReadJsonFile : public ::testing::Test {
 protected:
  nlohmann::json read(const std::string& text, std::size_t limit = 1000) {
    testing::write_file(folder_ / "x.json", text);
    return read_json_file(folder_ / "x.json", limit);
  }
  void expect_refused(const std::string& text, const std::string& part) {
    testing::expect_error(ErrorCode::kBadFile, {"x.json", part}, [&] { read(text); });
  }
  testing::TemporaryFolder folder_;
};

TEST_F(ReadJsonFile, ReadsADocument) { EXPECT_EQ(read(R"({"a": [1, {"b": null}]})")["a"][0], 1); }

TEST_F(ReadJsonFile, RefusesAKeyTwiceInOneObject) {
  expect_refused(R"({"a": 1, "a": 2})", "'a' appears twice");
  EXPECT_NO_THROW(read(R"({"a": {"a": 1}, "b": {"a": 2}})"));
}

TEST_F(ReadJsonFile, RefusesDeepNestingBadTextAndLargeFiles) {
  expect_refused(std::string(400, '['), "nested deeper");
  expect_refused("{\"a\": ", "not valid JSON");
  expect_refused("\xff\xfe", "not valid JSON");
  testing::expect_error(ErrorCode::kBadFile, {"2000 bytes"}, [&] { read(std::string(2000, ' ')); });
  testing::expect_error(ErrorCode::kBadFile, {"can't open"}, [&] { read_json_file(folder_ / "absent.json", 10); });
  testing::expect_error(ErrorCode::kBadFile, {"empty"}, [&] { read(""); });
  testing::expect_error(ErrorCode::kBadFile, {"not a regular file"}, [&] { read_json_file(folder_.path(), 10); });
}

TEST_F(ReadJsonFile, RefusesANulByte) {
  testing::write_file(folder_ / "x.json", std::string("{\"a\":1}\0{\"b\":2}", 15));
  EXPECT_THROW(read_json_file(folder_ / "x.json", 100), Error);
}

class PythonNumbers : public ::testing::Test {
 protected:
  static nlohmann::json parse(const std::string& text) { return parse_json(text, "x.json", JsonNumbers::kPython); }
};

TEST_F(PythonNumbers, AreNumbersOutsideStrings) {
  const nlohmann::json document =
      parse(R"({"a": [NaN, Infinity,-Infinity], "Infinity": "NaN", "b": "\"Infinity\\", "c": -Infinity})");
  EXPECT_TRUE(std::isnan(document["a"][0].get<double>()));
  EXPECT_EQ(document["a"][1].get<double>(), HUGE_VAL);
  EXPECT_EQ(document["a"][2].get<double>(), -HUGE_VAL);
  EXPECT_EQ(document["Infinity"], "NaN");
  EXPECT_EQ(document["b"], "\"Infinity\\");
  EXPECT_EQ(document["c"].get<double>(), -HUGE_VAL);
}

TEST_F(PythonNumbers, AreNothingElse) {
  for (const char* text : {R"({"a": nan})", R"({"a": Infinit})", R"({"a": NaNs})", R"({"a": 1NaN})", R"({NaN: 1})",
                           R"({"a": --Infinity})", R"({"a": +Infinity})", R"({"a": "NaN)"}) {
    testing::expect_error(ErrorCode::kBadFile, {"x.json", "not valid JSON"}, [&] { parse(text); });
    testing::expect_error(ErrorCode::kBadFile, {"not valid JSON"}, [&] { parse_json(text, "x.json"); });
  }
  testing::expect_error(ErrorCode::kBadFile, {"not valid JSON"}, [] { parse_json(R"({"a": NaN})", "x.json"); });
}

TEST_F(PythonNumbers, AreWrittenAsTheyWereRead) {
  PythonJson json(R"({"z": [0.0, Infinity], "a": -Infinity, "n": NaN, "s": "NaN"})");
  json.document["added"] = 1;
  EXPECT_EQ(parse(json.dump())["z"][1].get<double>(), HUGE_VAL);
  EXPECT_EQ(json.dump(),
            "{\n  \"z\": [\n    0.0,\n    Infinity\n  ],\n  \"a\": -Infinity,\n  \"n\": NaN,\n  \"s\": \"NaN\",\n"
            "  \"added\": 1\n}");
}

TEST_F(PythonNumbers, HaveTheirNamesInMessages) {
  EXPECT_EQ(json_text(HUGE_VAL), "Infinity");
  EXPECT_EQ(json_text(-HUGE_VAL), "-Infinity");
  EXPECT_EQ(json_text(std::nan("")), "NaN");
  EXPECT_EQ(json_text(1.5), "1.5");
  EXPECT_EQ(json_text("NaN"), "\"NaN\"");
}

}  // namespace
}  // namespace diffulex_edge
