// Chooses ranges for static activations.
#pragma once

#include <span>

#include "diffulex_edge/calibration.h"

namespace diffulex_edge {

// The range that `observer` gives the values: with 0 inside, within their own range. Errors: kBadFile where a value is
// not finite, since then the model's weights or its mathematics are broken.
ActivationRange observe(std::span<const float> values, Observer observer, double percentile);

}  // namespace diffulex_edge
