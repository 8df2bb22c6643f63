// Second moments of a layer's input.
#pragma once

#include <span>

#include "diffulex_edge/progress.h"
#include "quant/rounding.h"

namespace diffulex_edge {

// Over all tokens of x [tokens, columns]; `weights` has one for each token, or is empty for 1. Memory: the result, and
// a copy of x where there are weights.
InputStatistics input_statistics(std::span<const float> x, std::int64_t columns, std::span<const float> weights,
                                 const RunControl& control);

// Those of x / scales, column by column.
InputStatistics scaled_statistics(const InputStatistics& statistics, std::span<const float> scales);

}  // namespace diffulex_edge
