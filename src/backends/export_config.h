// What all backends make of an export's options, and say of its result.
#pragma once

#include <string>
#include <vector>

#include "diffulex_edge/backend.h"

namespace diffulex_edge {

// Activations in integers are those of mode static: they make mode weight_only static.
BackendConfig with_static_mode(BackendConfig config);

// Throws Error where activations in integers were asked for: kInvalidArgument with mode dynamic, whose `advice` is the
// backend's own; and kUnsupported, naming the backend, where nothing would have them.
void check_not_dynamic(const BackendConfig& config, const std::string& advice);
void check_takes_integers(const BackendConfig& config, bool has_them, const std::string& backend);
// Whether a layer of the plan has static activations.
bool has_static_layer(const QuantizationPlan& plan);

// Throws Error{kInvalidArgument} where the longest length, which the message calls `what`, is not the model's.
void check_length(const InputLengths& lengths, const Model& model, const std::string& what);

// "dtype=int4, mode=weight_only, method=rtn, group_size=32": what an artefact notes of its making.
std::string describe_quantization(const QuantizationConfig& config);

// The part that follows from the model, its plan and the layers as stored. `warnings` come behind the model's.
ExportMetadata describe_export(const Model& model, const QuantizationResult& quantization,
                               std::vector<StoredLayer> layers, const std::vector<std::string>& warnings);

}  // namespace diffulex_edge
