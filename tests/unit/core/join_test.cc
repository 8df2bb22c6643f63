#include "core/join.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

namespace diffulex_edge {
namespace {

TEST(Join, PutsTheLastSeparatorBeforeTheLastWord) {
  const std::vector<std::string> words = {"a", "b", "c"};
  EXPECT_EQ(join(words, ", ", " or "), "a, b or c");
  EXPECT_EQ(join(words, ", "), "a, b, c");
  EXPECT_EQ(join(std::vector<std::string>{"a", "b"}, ", ", " or "), "a or b");
  EXPECT_EQ(join(std::vector<std::string>{"a"}, ", ", " or "), "a");
  EXPECT_EQ(join(std::vector<std::string>{}, ", "), "");
}

TEST(Join, KeepsEmptyWordsAndTakesTextOfElements) {
  EXPECT_EQ(join(std::vector<std::string>{"", "a", ""}, ","), ",a,");
  EXPECT_EQ(join(std::set<int>{3, 1, 2}, "..", [](int number) { return std::to_string(number); }), "1..2..3");
}

}  // namespace
}  // namespace diffulex_edge
