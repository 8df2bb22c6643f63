// The formats that layers can have, and those that a config gives them.
#pragma once

#include <vector>

#include "diffulex_edge/quantization.h"

namespace diffulex_edge {

// Every row of the table of formats with each group size that it takes.
std::vector<LayerFormat> all_layer_formats();

// The formats that layers may get by `config`, each once.
std::vector<QuantizationDtype> dtypes_of(const QuantizationConfig& config);
// Whether a layer has another format than FP32: without one, a plan changes nothing.
bool changes_layers(const QuantizationPlan& plan);
// Whether one of dtypes_of() is a palette.
bool has_palettes(const QuantizationConfig& config);
// The same config where palettes of 4 bits stand wherever INT4 stood.
QuantizationConfig with_palettes(QuantizationConfig config);

}  // namespace diffulex_edge
