#include "tokenizer/regex.h"

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "tokenizer/oniguruma_syntax.h"

namespace diffulex_edge {
namespace {

// The spans as text, matches in brackets.
std::string shown(const Regex& regex, std::string_view text) {
  std::string result;
  for (const Span& span : regex.cut(text)) {
    const std::string part(text.substr(span.begin, span.end - span.begin));
    result += span.is_match ? "[" + part + "]" : part;
  }
  return result;
}

std::string shown(const std::string& pattern, std::string_view text) {
  return shown(Regex::from_pattern(pattern, "test"), text);
}

TEST(Regex, CutsMatchesFromWhatLiesBetween) {
  EXPECT_EQ(shown(R"(\p{L}+)", "ab 1 é!"), "[ab] 1 [é]!");
  EXPECT_EQ(shown("x", ""), "");
  EXPECT_EQ(shown(R"(\s+(?!\S)|\s+)", "a  b "), "a[ ][ ]b[ ]");
}

TEST(Regex, TakesAnEmptyMatchOnceAndNotBehindAnother) { EXPECT_EQ(shown(R"(\d*)", "a12é"), "[]a[12]é[]"); }

TEST(Regex, FindsLiteralText) { EXPECT_EQ(shown(Regex::from_literal("a.", "test"), "aba.a."), "ab[a.][a.]"); }

TEST(Regex, MeansWhiteSpaceOfUnicodeAndOnlyThat) {
  EXPECT_EQ(shown(R"(\s)", "\u00a0\u180e\u2028"), "[\u00a0]\u180e[\u2028]");
  EXPECT_EQ(shown(R"([^\S\n])", "\t\n"), "[\t]\n");
  EXPECT_EQ(shown(R"(\v)", "\v\n"), "[\v]\n");
}

TEST(Regex, SpellsOutWordCharactersAndHexDigits) {
  EXPECT_EQ(shown(R"(\w+)", "e\u0301_\u00b9 \u2460"), "[e\u0301_\u00b9] \u2460");
  EXPECT_EQ(shown(R"([^\w ])", "a-b \u00b9"), "a[-]b [\u00b9]");
  EXPECT_EQ(shown(R"(\h+)", "xfaceg"), "x[face]g");
}

TEST(Regex, IgnoresCaseAsUnicodeFoldsIt) { EXPECT_EQ(shown("(?i:'s)", "'S'\u017f's"), "['S]['\u017f]['s]"); }

TEST(Regex, AnchorsAtLines) { EXPECT_EQ(shown("^a|b$", "ab\nab\ra"), "[a][b]\n[a]b\ra"); }

TEST(Regex, RefusesWhatTheLibrariesReadDifferently) {
  for (const char* pattern :
       {R"(\bx)",  R"(\R)",   R"(\X)",    R"(\1)",       R"(\Qx)",          R"(\pL)", "(?<n>x)",
        "(?R)",    "(*FAIL)", "x(?i)y|z", "[[:alpha:]]", "[a[b]]",          "[a&&b]", R"([\W])",
        "[]x]",    "[",       "a{,3}",    "a{2}+",       "a{2}?",           "a{x}",   R"(\x{zz})",
        R"(\x80)", R"(\u12)", "\\",       "(?#c)",       R"(\p{Nonsense})", "(",      "x{99999}"}) {
    testing::expect_error(ErrorCode::kUnsupported, {"test", "regular expression"},
                          [&] { Regex::from_pattern(pattern, "test"); });
  }
  testing::expect_error(ErrorCode::kUnsupported, {"regular expression"},
                        [] { Regex::from_pattern(std::string(100'000, 'x'), "test"); });
}

TEST(Regex, KeepsWhatTheyReadAlike) {
  for (const char* pattern : {R"(a{2,3}?b{1,}\.\-\[[\]\\^-]?+(?:x|y)*?(?=z)(?!z)(?<=z)(?<!z)(?>z)$\A\z)", "[^ab-z]"}) {
    EXPECT_EQ(pcre2_pattern(pattern, "test"), pattern);
  }
  EXPECT_EQ(pcre2_pattern(R"(\u00e9\x41\x{1F600})", "test"), R"(\x{00e9}\x{41}\x{1F600})");
}

TEST(Regex, StopsAPatternThatBacktracksWithoutEnd) {
  const Regex regex = Regex::from_pattern("(a+)+[bc]", "test");
  testing::expect_error(ErrorCode::kUnsupported, {"test", "limit"}, [&] { regex.cut(std::string(200, 'a')); });
}

TEST(Regex, GoesOverLongRuns) {
  const std::string spaces(1'000'000, ' ');
  EXPECT_EQ(Regex::from_pattern(R"(\s*[\r\n]+|\s+(?!\S)|\s+)", "test").cut(spaces + "x").size(), 3U);
  EXPECT_EQ(Regex::from_pattern(R"((?:\s|\d)+x)", "test").cut(spaces + "x").size(), 1U);
}

}  // namespace
}  // namespace diffulex_edge
