#include "report/difference.h"

#include <algorithm>
#include <cmath>

#include "report/text_table.h"

namespace diffulex_edge {

Difference difference_of(const Estimate& estimate) {
  if (!std::isfinite(estimate.low) || !std::isfinite(estimate.high)) {
    return Difference::kUnknown;
  }
  const bool is_tiny = std::max(std::fabs(estimate.low), std::fabs(estimate.high)) < kLeastDifference;
  if (is_tiny || (estimate.low <= 0.0 && estimate.high >= 0.0)) {
    return Difference::kNone;
  }
  return estimate.low > 0.0 ? Difference::kIncrease : Difference::kDecrease;
}

std::string in_words(Difference difference) {
  switch (difference) {
    case Difference::kNone:
      return "no measurable difference";
    case Difference::kIncrease:
      return "worse";
    case Difference::kDecrease:
      return "better";
    case Difference::kUnknown:
      break;
  }
  return "no interval";
}

std::string with_sign(double value, int decimals) {
  std::string text = format_number(std::fabs(value), decimals);
  if (text.find_first_not_of("0.") == std::string::npos) {
    return text;
  }
  return (value < 0.0 ? "−" : "+") + text;
}

std::string half_width(const Estimate& estimate, int decimals) {
  return std::isfinite(estimate.low) ? " ± " + format_number((estimate.high - estimate.low) / 2.0, decimals) : "";
}

std::string signed_estimate(const Estimate& estimate, int decimals) {
  return with_sign(estimate.mean, decimals) + half_width(estimate, decimals);
}

}  // namespace diffulex_edge
