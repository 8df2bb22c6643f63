// What all backends make of an export's options, and say of its result.
#pragma once

#include <string>
#include <vector>

#include "diffulex_edge/backend.h"

namespace diffulex_edge {

// Activations in INT8 are those of mode static: they make mode weight_only static.
BackendConfig with_static_mode(BackendConfig config);

// Throws Error where activations in integers were asked for: kInvalidArgument with mode dynamic, whose `advice` is the
// backend's own; and, for INT8, kUnsupported, naming the backend, where no layer of the plan has them.
void check_not_dynamic(const BackendConfig& config, const std::string& advice);
void check_some_layer_is_static(const BackendConfig& config, const QuantizationPlan& plan, const std::string& backend);

// The part that follows from the model, its plan and the layers as stored. `warnings` come behind the model's.
ExportMetadata describe_export(const Model& model, const QuantizationResult& quantization,
                               std::vector<StoredLayer> layers, const std::vector<std::string>& warnings);

}  // namespace diffulex_edge
