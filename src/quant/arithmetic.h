// Decides how layers compute: what a request's mode means for a format on a target. The one place that knows.
#pragma once

#include "diffulex_edge/quantization.h"

namespace diffulex_edge {

// Whether some linear layer may become an integer, the head aside.
bool has_integers(const QuantizationConfig& config);

// Whether mode STATIC makes every value of the graph an integer: the target does so, and some layers are integers.
bool is_static_everywhere(const QuantizationConfig& config, const TargetArithmetic& target);
// False for formats, groups on some targets, that a linear layer can't have in mode STATIC.
bool has_static_kernel(const LayerFormat& format, const TargetArithmetic& target);

// Of a planned layer whose role and format are decided. `is_output`: it makes the model's output. Throws
// Error{kUnsupported} where the target has no kernel for what is asked for.
LayerArithmetic choose_arithmetic(const LayerPlan& layer, bool is_output, const QuantizationConfig& config,
                                  const TargetArithmetic& target);

}  // namespace diffulex_edge
