#include "backends/qnn/soc.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>

#include "support/expect_error.h"

namespace diffulex_edge::qnn {
namespace {

struct Known {
  const char* name;
  int model;
  int htp_architecture;
  int vtcm_mebibytes;
  bool takes_block_int4;
};

class KnownSoc : public ::testing::TestWithParam<Known> {};

TEST_P(KnownSoc, HasItsNumbers) {
  const Soc& soc = parse_soc(GetParam().name);
  EXPECT_EQ(soc.name, GetParam().name);
  EXPECT_EQ(soc.model, GetParam().model);
  EXPECT_EQ(soc.htp_architecture, GetParam().htp_architecture);
  EXPECT_EQ(soc.vtcm_mebibytes, GetParam().vtcm_mebibytes);
  EXPECT_EQ(soc.takes_block_int4(), GetParam().takes_block_int4);
}

INSTANTIATE_TEST_SUITE_P(Qnn, KnownSoc,
                         ::testing::Values(Known{"SM8350", 30, 68, 4, false}, Known{"SM8450", 36, 69, 8, true},
                                           Known{"SM8475", 42, 69, 8, true}, Known{"SM8550", 43, 73, 8, true},
                                           Known{"SM8650", 57, 75, 8, true}, Known{"SM8750", 69, 79, 8, true},
                                           Known{"SM8850", 87, 81, 8, true}, Known{"SA8295", 39, 68, 8, false}),
                         [](const auto& parameter) { return std::string(parameter.param.name); });

TEST(QnnSoc, IsFoundInAnyLetterCase) {
  EXPECT_EQ(&parse_soc("sm8550"), &parse_soc("SM8550"));
  EXPECT_EQ(parse_soc("sC8380xP").model, 60);
}

TEST(QnnSoc, ThatIsUnknownListsTheKnownOnes) {
  testing::expect_error(ErrorCode::kInvalidArgument,
                        {"soc: 'SM9999' is not one of SM8350, SM8450, ", "SM8550", "SM8850"},
                        [] { parse_soc("SM9999"); });
  testing::expect_error(ErrorCode::kInvalidArgument, {"''"}, [] { parse_soc(""); });
  testing::expect_error(ErrorCode::kInvalidArgument, {"'SM855'"}, [] { parse_soc("SM855"); });
  testing::expect_error(ErrorCode::kInvalidArgument, {"'SM85500'"}, [] { parse_soc("SM85500"); });
}

TEST(QnnSoc, TableIsInOrderWithoutRepetitions) {
  std::set<std::string_view> names;
  int previous = 0;
  for (const Soc& soc : all_socs()) {
    EXPECT_TRUE(names.insert(soc.name).second) << soc.name;
    EXPECT_LT(previous, soc.model) << soc.name;
    previous = soc.model;
    EXPECT_GT(soc.vtcm_mebibytes, 0) << soc.name;
  }
  EXPECT_EQ(names.size(), all_socs().size());
  EXPECT_FALSE(names.empty());
}

}  // namespace
}  // namespace diffulex_edge::qnn
