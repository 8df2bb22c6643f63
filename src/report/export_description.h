// What there is to say of an export and of a layer, once: text, JSON, pages and Python show parts of it by these names.
#pragma once

#include <nlohmann/json.hpp>

#include "diffulex_edge/backend.h"
#include "diffulex_edge/quantization.h"

namespace diffulex_edge {

// A layer's plan, and what is stored of it.
nlohmann::ordered_json describe(const LayerPlan& plan);
nlohmann::ordered_json describe(const StoredLayer& layer);
// Everything but `layers` and `warnings`.
nlohmann::ordered_json describe(const ExportMetadata& metadata);
nlohmann::ordered_json describe(const Placement& placement);

// `parameters` and the weights' size, of an ExportMetadata or a QuantizationResult.
template <typename Result>
void add_sizes(nlohmann::ordered_json& json, const Result& result) {
  json["parameters"] = result.parameters;
  json["original_memory_mb"] = result.original_memory_mb;
  json["quantized_memory_mb"] = result.quantized_memory_mb;
  json["memory_reduction_pct"] = result.memory_reduction_pct();
  json["compression_ratio"] = result.compression_ratio();
}

}  // namespace diffulex_edge
