// What an estimated difference says, as a figure and in words.
#pragma once

#include <string>

#include "diffulex_edge/evaluation.h"

namespace diffulex_edge {

// Whether a difference of losses can be told from zero by its 95% confidence interval, in the digits that reports show.
enum class Difference {
  kUnknown,  // no interval, as of one sequence
  kNone,     // the interval holds zero, or nothing beyond +-kLeastDifference
  kIncrease,
  kDecrease,
};
inline constexpr double kLeastDifference = 0.00005;  // nats
Difference difference_of(const Estimate& estimate);
// Of a loss: "no measurable difference", "worse", "better", "no interval".
std::string in_words(Difference difference);

// "+0.0012", "−0.0003"; what rounds to zero has no sign.
std::string with_sign(double value, int decimals);
// " ± 0.0003"; without an interval nothing.
std::string half_width(const Estimate& estimate, int decimals);
// "+0.0012 ± 0.0003"
std::string signed_estimate(const Estimate& estimate, int decimals);

}  // namespace diffulex_edge
