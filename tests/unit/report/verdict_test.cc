#include "report/verdict.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "report/difference.h"

namespace diffulex_edge {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

SetResult compared(std::string label, const Estimate& increase, double agreement = 0.75) {
  return {.label = std::move(label),
          .tokens = 8,
          .loss = {.mean = 3.0, .low = 2.0, .high = 4.0},
          .comparison = ReferenceComparison{.loss_increase = increase, .agreement = agreement}};
}

const Estimate kWorse{.mean = 0.02, .low = 0.01, .high = 0.03};
const Estimate kMuchWorse{.mean = 0.04, .low = 0.02, .high = 0.06};
const Estimate kBetter{.mean = -0.02, .low = -0.03, .high = -0.01};
const Estimate kNone{.mean = 0.05, .low = -0.01, .high = 0.11};
const Estimate kOneSequence{.mean = 0.5, .low = -kInfinity, .high = kInfinity};

TEST(Difference, IsWhatTheIntervalSays) {
  EXPECT_EQ(difference_of(kWorse), Difference::kIncrease);
  EXPECT_EQ(difference_of(kBetter), Difference::kDecrease);
  EXPECT_EQ(difference_of(kNone), Difference::kNone);
  EXPECT_EQ(difference_of({.mean = 0.0, .low = 0.0, .high = 0.0}), Difference::kNone);
  EXPECT_EQ(difference_of(kOneSequence), Difference::kUnknown);
  // Printed as 0.0000.
  EXPECT_EQ(difference_of({.mean = 0.00002, .low = 0.00001, .high = 0.00003}), Difference::kNone);
}

TEST(Difference, HasASignUnlessItRoundsToZero) {
  EXPECT_EQ(with_sign(0.00123, 4), "+0.0012");
  EXPECT_EQ(with_sign(-0.00123, 4), "−0.0012");
  EXPECT_EQ(with_sign(-0.00001, 4), "0.0000");
  EXPECT_EQ(signed_estimate(kWorse, 3), "+0.020 ± 0.010");
  EXPECT_EQ(signed_estimate(kOneSequence, 1), "+0.5");
}

class VerdictTest : public ::testing::Test {
 protected:
  std::string of(std::vector<SetResult> sets) {
    result_.sets = std::move(sets);
    return verdict(EvaluationReport{.model = model_, .result = result_, .data = {}, .reference = "r", .warnings = {}});
  }

  Model model_ = load_model(DIFFULEX_EDGE_EXAMPLES_DIR "/tiny-llada");
  EvaluationResult result_;
};

TEST_F(VerdictTest, SaysThatNothingWasMeasured) {
  EXPECT_EQ(of({compared("15", kNone)}),
            "No measurable difference in loss, and another token becomes the most probable one at 25.0% of the "
            "positions.");
  EXPECT_EQ(of({compared("15", kNone, 1.0), compared("50", kNone, 1.0)}),
            "No measurable difference in loss on any set, and the most probable token is the same everywhere.");
}

TEST_F(VerdictTest, NamesTheSetThatLosesMostAmongThoseThatMeasurablyLose) {
  EXPECT_TRUE(
      of({compared("15", kNone), compared("50", kWorse)})
          .starts_with("The loss rises on set 50, by 0.0200 ± 0.0100 nats, with no measurable difference on the "
                       "other, and"));
  EXPECT_TRUE(of({compared("15", kNone), compared("50", kNone), compared("bound", kMuchWorse)})
                  .starts_with("The loss rises on bound, by 0.0400 ± 0.0200 nats, with no measurable difference on the "
                               "others, and"));
  EXPECT_TRUE(of({compared("15", kNone), compared("50", kWorse), compared("90", kMuchWorse)})
                  .starts_with("The loss rises on 2 of 3 sets, most on set 90, by 0.0400"));
  EXPECT_TRUE(of({compared("15", kWorse), compared("50", kMuchWorse)})
                  .starts_with("The loss rises on every set, most on set 50, by 0.0400 ± 0.0200 nats, and"));
}

TEST_F(VerdictTest, TellsABetterLossAndAnUnknownOne) {
  EXPECT_TRUE(
      of({compared("15", kBetter), compared("50", kNone)})
          .starts_with("The loss falls on set 15, by 0.0200 ± 0.0100 nats, with no measurable difference on the "
                       "other, and"));
  EXPECT_TRUE(
      of({compared("15", kOneSequence)})
          .starts_with("The loss changes by +0.5000 nats on set 15, which one sequence can't tell from chance"));
}

TEST_F(VerdictTest, OfAModelAloneIsItsLoss) {
  SetResult low{.label = "15", .loss = {.mean = 3.0}};
  SetResult high{.label = "90", .loss = {.mean = 5.0}};
  EXPECT_EQ(of({high, low}), "The loss is 3.0000 nats on set 15 to 5.0000 on set 90; nothing was compared.");
  EXPECT_EQ(of({}), "No set was evaluated.");
}

}  // namespace
}  // namespace diffulex_edge
