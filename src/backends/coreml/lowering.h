// From the model graph and its quantization plan to an ML Program.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backends/cache_plan.h"
#include "backends/coreml/mil_program.h"
#include "backends/coreml/options.h"
#include "backends/coreml/weight_store.h"
#include "diffulex_edge/backend.h"
#include "graph/graph_parts.h"
#include "graph/position_values.h"

namespace diffulex_edge::coreml {

struct LoweredPart {
  LoweredPart(const Checkpoint& checkpoint, DistinctTensors& distinct, WeightSettings settings)
      : weights(checkpoint, distinct, std::move(settings)) {}

  MilFunction function;
  WeightStore weights;
  std::vector<StoredLayer> layers;
  bool dynamic_as_weight_only = false;  // some layer has INT8 weights and floating-point activations instead
  bool clamped_constants = false;       // masks that float16 does not hold are finite in it
  std::int64_t cache_bytes = 0;         // of keys and values
  std::vector<std::string> warnings;    // of what is not as the graph has it
};

struct LoweringSettings {
  const DeploymentTarget* target = nullptr;
  bool fixed_length = true;  // else any length up to the model's
  WeightSettings weights;    // their arithmetic is that of the whole program
  // With a cache, a function computes one step of a text (step_inputs.h has its inputs).
  std::optional<CachePlan> cache;
  CacheStorage cache_storage = CacheStorage::kState;
};

// `positions` are those of `graph` at its longest sequence, or the cache's. Inputs are float32 as callers have their
// numbers, whatever the arithmetic, or int32 for ids; the output is float32. Throws Error{kUnsupported} for a format
// that the target lacks, naming the first one that has it, and for what Core ML has no operation for.
std::unique_ptr<LoweredPart> lower(const Graph& graph, const Checkpoint& checkpoint, const QuantizationPlan& plan,
                                   const PositionValues& positions, const GraphPart& part, DistinctTensors& distinct,
                                   const LoweringSettings& settings);

}  // namespace diffulex_edge::coreml
