// What all backends make of an export's options, and say of its result.
#pragma once

#include <string>
#include <vector>

#include "diffulex_edge/backend.h"

namespace diffulex_edge {

// INT8 or INT16: those of mode static.
bool wants_integer_activations(const BackendConfig& config);

// Throws Error{kUnsupported} for the first format of `config` that the backend says it can't have.
void check_formats(const BackendDescription& backend, const QuantizationConfig& config);

// Throws Error where activations in integers were asked for: kInvalidArgument with mode dynamic, whose `advice` is the
// backend's own; and kUnsupported, naming the backend, where nothing would have them.
void check_not_dynamic(const BackendConfig& config, const std::string& advice);
void check_takes_integers(const BackendConfig& config, bool has_them, const std::string& backend);
// Whether a layer of the plan has static activations.
bool has_static_layer(const QuantizationPlan& plan);

// Throws Error{kInvalidArgument} where the longest length, which the message calls `what`, is not the model's.
void check_length(const InputLengths& lengths, const Model& model, const std::string& what);

// Throws Error{kUnsupported} naming the first operator whose value has more dimensions than the runtime takes.
void check_rank(const Model& model, std::size_t most, const std::string& runtime);

// Throws Error{kUnsupported} for a model with routed experts.
void check_no_experts(const Model& model, const std::string& backend);

// "dtype=int4, mode=weight_only, method=rtn, group_size=32": what an artefact notes of its making. Of a quantized
// checkpoint, whose integers are final, rtn.
std::string describe_quantization(const Model& model, const QuantizationConfig& config);

// The part that follows from the model, its plan and the layers as stored. `warnings` come behind the model's.
ExportMetadata describe_export(const Model& model, const QuantizationResult& quantization,
                               std::vector<StoredLayer> layers, const std::vector<std::string>& warnings);

}  // namespace diffulex_edge
