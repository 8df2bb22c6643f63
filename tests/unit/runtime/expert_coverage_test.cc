#include "runtime/expert_coverage.h"

#include <gtest/gtest.h>

#include "quant/expert_name.h"

namespace diffulex_edge {
namespace {

TEST(ExpertName, IsReadFromALayersName) {
  const auto name = parse_expert_name("layers.3.experts.17.up_proj");
  ASSERT_TRUE(name.has_value());
  EXPECT_EQ(name->group, "layers.3.experts");
  EXPECT_EQ(name->number, 17);
  EXPECT_EQ(name->role, "up_proj");
}

TEST(ExpertName, OthersHaveNone) {
  for (const char* layer : {"layers.3.q_proj", "layers.3.shared_experts.up_proj", "layers.3.experts", "lm_head",
                            "layers.3.experts.x.up_proj", "layers.3.experts.4", "experts.4.up_proj", ""}) {
    EXPECT_FALSE(parse_expert_name(layer).has_value()) << layer;
  }
}

TEST(ExpertCoverage, NamesExpertsThatSawTooFewTokens) {
  ExpertCoverage coverage;
  coverage.add("layers.0.q_proj", 0, 64);
  coverage.add("layers.0.experts.0.up_proj", 8, 64);
  coverage.add("layers.0.experts.1.up_proj", 7, 64);
  coverage.add("layers.0.experts.1.gate_proj", 7, 64);
  coverage.add("layers.0.experts.2.up_proj", 0, 64);
  coverage.add("layers.1.experts.0.up_proj", 100, 2048);
  EXPECT_TRUE(coverage.is_reached("layers.0.q_proj"));
  EXPECT_TRUE(coverage.is_reached("layers.0.experts.0.up_proj"));
  EXPECT_FALSE(coverage.is_reached("layers.0.experts.1.up_proj"));
  EXPECT_FALSE(coverage.is_reached("layers.1.experts.0.up_proj"));
  EXPECT_EQ(coverage.warnings("so."),
            (std::vector<std::string>{"layers.0.experts: calibration hardly reached 2 of 3 experts, here with their "
                                      "tokens: 1 (7), 2 (0); so.",
                                      "layers.1.experts: calibration hardly reached 1 of 1 experts, here with their "
                                      "tokens: 0 (100); so."}));
}

TEST(ExpertCoverage, NamesSixteenExpertsAtMost) {
  ExpertCoverage coverage;
  for (int i = 0; i < 20; ++i) {
    coverage.add("layers.0.experts." + std::to_string(i) + ".up_proj", 0, 64);
  }
  ASSERT_EQ(coverage.warnings("").size(), 1U);
  EXPECT_NE(coverage.warnings("")[0].find("15 (0), 4 more"), std::string::npos);
}

}  // namespace
}  // namespace diffulex_edge
