#include "diffulex_edge/error.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace diffulex_edge {
namespace {

TEST(Error, SaysWhereWhatAndWhatToDo) {
  const Error error(ErrorCode::kBadFile, "model.safetensors", "is cut off", "download it again");
  EXPECT_STREQ(error.what(), "model.safetensors: is cut off (download it again)");
  EXPECT_EQ(error.where(), "model.safetensors");
  EXPECT_EQ(error.advice(), "download it again");
}

TEST(Error, LeavesOutAbsentParts) { EXPECT_STREQ(Error(ErrorCode::kIo, {}, "disk full").what(), "disk full"); }

TEST(Error, KeepsHostileNamesOnOneBoundedLine) {
  const std::string what = Error(ErrorCode::kBadFile, std::string(5000, 'x'), "a\nb\x1b[31m").what();
  EXPECT_EQ(what.find('\n'), std::string::npos);
  EXPECT_EQ(what.find('\x1b'), std::string::npos);
  EXPECT_LT(what.size(), 1000U);
}

// A damaged header's bytes reached the terminal as they were.
TEST(Error, ShowsNoRawBytesInAnyPart) {
  const Error error(ErrorCode::kBadFile, "a\xf0.txt", "a\u009b31mb\u00e9", "\xc3");
  EXPECT_STREQ(error.what(), R"(a\xF0.txt: a\u009B31mbé (\xC3))");
  EXPECT_EQ(error.where(), R"(a\xF0.txt)");
  EXPECT_EQ(error.advice(), R"(\xC3)");
}

TEST(Error, CutsLongNamesBetweenCharacters) {
  std::string name = "x";
  for (int i = 0; i < 200; ++i) {
    name += "\u00e9";
  }
  EXPECT_NO_THROW(nlohmann::json(Error(ErrorCode::kBadFile, name, "y").what()).dump());
}

}  // namespace
}  // namespace diffulex_edge
