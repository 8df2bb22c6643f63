#include "core/json.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace diffulex_edge
