#include "report/text_table.h"

#include <gtest/gtest.h>

#include "report/html_page.h"

namespace diffulex_edge {
namespace {

TEST(TextTable, AlignsTextLeftAndNumbersRight) {
  TextTable table({"name", "bytes"});
  table.add({"a", "7"});
  table.add({"longer", "12345"});
  EXPECT_EQ(table.render(),
            "name    bytes\n"
            "------  -----\n"
            "a           7\n"
            "longer  12345\n");
}

// The sign "±" has two bytes and was taken for one of three, as "−" is: a number of one digit was then no number.
TEST(HtmlTable, AlignsNumbersWithEverySignRight) {
  for (const char* cell : {"7", "+7", "−7", "±7", "±0.5"}) {
    EXPECT_NE(html_table({"x"}, {{cell}}).find("<td class=\"n\">"), std::string::npos) << cell;
  }
  for (const char* cell : {"", "±", "−", "+", "x", "±x7", "--7"}) {
    EXPECT_EQ(html_table({"x"}, {{cell}}).find("<td class=\"n\">"), std::string::npos) << cell;
  }
}

TEST(TextTable, CountsCharactersAndNotBytes) {
  TextTable table({"mark", "x"});
  table.add({"é", "1"});
  EXPECT_EQ(table.render(), "mark  x\n----  -\né     1\n");
}

TEST(FormatCount, GroupsThousands) {
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(999), "999");
  EXPECT_EQ(format_count(1000), "1,000");
  EXPECT_EQ(format_count(8015581184), "8,015,581,184");
}

TEST(FormatBytes, IsInMebibytes) { EXPECT_EQ(format_bytes(3 * 1024 * 1024 / 2), "1.50 MiB"); }

}  // namespace
}  // namespace diffulex_edge
