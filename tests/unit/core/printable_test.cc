#include "core/printable.h"

#include <gtest/gtest.h>

namespace diffulex_edge {
namespace {

TEST(Printable, LeavesTextAsItIs) {
  for (const char* text : {"", "model.layers.0", "é − ± 漢字 🙂", "\\x41"}) {
    EXPECT_EQ(printable(text), text);
  }
}

TEST(Printable, EscapesControlCharacters) {
  EXPECT_EQ(printable("a\x1b[31mb\n\t\x7f"), R"(a\x1B[31mb\x0A\x09\x7F)");
  EXPECT_EQ(printable("a\u009b31m"), R"(a\u009B31m)");
  EXPECT_EQ(printable(std::string_view("a\0b", 3)), R"(a\x00b)");
}

TEST(Printable, EscapesWhatTurnsOrBreaksALine) {
  EXPECT_EQ(printable("a\u202Eb\u2028c\u2066d"), R"(a\u202Eb\u2028c\u2066d)");
}

TEST(Printable, EscapesWhatIsNoUtf8) {
  EXPECT_EQ(printable("\"wte\xf0"), R"("wte\xF0)");
  EXPECT_EQ(printable("\xf0\x9f\x99"), R"(\xF0\x9F\x99)");                  // cut off
  EXPECT_EQ(printable("\xc0\xaf\xed\xa0\x80"), R"(\xC0\xAF\xED\xA0\x80)");  // too long, a surrogate
  EXPECT_EQ(printable("\xf4\x90\x80\x80\xff"), R"(\xF4\x90\x80\x80\xFF)");  // beyond U+10FFFF
  EXPECT_EQ(printable("\x80 \xc3z"), R"(\x80 \xC3z)");
}

TEST(Printable, CutsBetweenCharacters) {
  EXPECT_EQ(printable("éé", 3), "é...");
  EXPECT_EQ(printable("abc", 3), "abc");
  EXPECT_EQ(printable("abcd", 3), "abc...");
}

TEST(Printable, KeepsLinesWhereThereAreSome) { EXPECT_EQ(printable_lines("a\nb\r\x9b"), "a\nb\\x0D\\x9B"); }

}  // namespace
}  // namespace diffulex_edge
