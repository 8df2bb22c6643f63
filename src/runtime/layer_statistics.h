// What calibration sees of a linear layer's input.
#pragma once

#include <vector>

#include "diffulex_edge/calibration.h"
#include "runtime/batch.h"

namespace diffulex_edge {

// One flag for each token of the batch, in the order of the sequences; none for a module's runs, which have no masks.
std::vector<bool> masked_tokens(const CalibrationData& data);

// The flags of some tokens; none where there are none.
std::vector<bool> select(const std::vector<bool>& flags, const std::vector<std::int64_t>& tokens);

// Ranges, sizes and the noise of 8-bit integers, kept apart for masked tokens and others; chosen.input is what
// options.observer takes. Neither the layer's name nor chosen.output is set. Throws Error{kBadFile} naming `layer`
// where a value is not finite.
LayerStatistics measure_input(const std::string& layer, const InputRows& x, const std::vector<bool>& masked,
                              const CalibrationOptions& options, const RunControl& control);

// The range that options.observer takes for values of `layer`; errors as measure_input.
ActivationRange observe_values(const std::string& layer, std::span<const float> values,
                               const CalibrationOptions& options);

}  // namespace diffulex_edge
