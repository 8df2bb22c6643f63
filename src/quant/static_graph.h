// Mode static where every value of a model's graph is an integer (QuantizationPlan::is_static_everywhere).
#pragma once

#include <span>

#include "diffulex_edge/activations.h"
#include "diffulex_edge/graph.h"
#include "diffulex_edge/quantization.h"

namespace diffulex_edge {

// What calibration observed. Throws Error{kInvalidArgument} where there is nothing for this graph, or no true ranges.
const GraphActivations& observed_ranges(const Graph& graph, const CalibrationFindings& findings);

// Of one attention's scores. Throws Error{kInvalidArgument} where they were not observed.
const ActivationRange& observed_scores(const GraphActivations& observed, ValueId attention);

// What integers of `bits` bits are made to cover: with 16, more than was observed, as what calibration did not see may
// be larger, and the room costs a third of a bit.
ActivationRange with_headroom(const ActivationRange& observed, int bits);

// Of constants: the least range that holds them all, and 0.
ActivationRange range_of(std::span<const float> values);

// Ranges that follow from others, of values inside an operator. Of x * factor:
ActivationRange scaled(const ActivationRange& x, float factor);
// Of x times anything from -1 to 1:
ActivationRange around_zero(const ActivationRange& x);
// Of x * sigmoid(x):
ActivationRange silu_range(const ActivationRange& x);
// Of an attention's scores with its mask: what is masked saturates at the least value, far enough below all others (a
// share of e^-16, or e^-8 where steps of 8 bits are coarse) and so near that the range stays narrow.
ActivationRange masked_range(const ActivationRange& scores, int bits);

}  // namespace diffulex_edge
