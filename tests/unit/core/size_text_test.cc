#include "core/size_text.h"

#include <gtest/gtest.h>

#include "support/expect_error.h"

namespace diffulex_edge {
namespace {

TEST(SizeText, TakesBytesAndUnits) {
  EXPECT_EQ(parse_size("size", "81920"), 81920);
  EXPECT_EQ(parse_size("size", "1073741824"), 1073741824);
  EXPECT_EQ(parse_size("size", "120MB"), 120'000'000);
  EXPECT_EQ(parse_size("size", "1.5 GiB"), 1610612736);
  EXPECT_EQ(parse_size("size", "2kib"), 2048);
}

TEST(SizeText, RefusesWhatIsNoSize) {
  for (const std::string text : {"", "0", "-4", "MB", "5 parsecs", "nan", "inf", "0.1", "9999999999GB", "1e3"}) {
    testing::expect_error(ErrorCode::kInvalidArgument, {"--limit: '" + text + "' is not a size", "such as 120MB"},
                          [&] { parse_size("--limit", text); });
  }
}

}  // namespace
}  // namespace diffulex_edge
