// From the model graph and its quantization plan to an ONNX graph that Qualcomm's compiler takes whole.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backends/qnn/data_store.h"
#include "backends/qnn/onnx_graph.h"
#include "backends/qnn/step_tensors.h"
#include "backends/qnn/value_writer.h"
#include "diffulex_edge/backend.h"
#include "graph/position_values.h"

namespace diffulex_edge::qnn {

// The name of the file of external data, beside the model's.
inline constexpr std::string_view kDataFile = "model.onnx.data";

struct LoweringSettings {
  OnnxDtype arithmetic = OnnxDtype::kFloat;  // or kFloat16: of floating-point values
  bool host_embedding = false;               // the embedding in a model of its own, for the host
  std::int64_t shards = 1;                   // models for the NPU, cut between layers
  std::optional<CacheSettings> cache;        // models for steps of each size, instead of ones for whole sequences
};

// One ONNX model. Several follow each other; they read one file of external data.
struct OnnxModel {
  explicit OnnxModel(std::string name) : stem(std::move(name)), graph(std::string(kDataFile)) {}

  std::string stem;  // of its file's name
  OnnxGraph graph;
  bool on_host = false;                        // runs on the CPU, in floating point
  std::map<std::string, Encoding> encodings;   // mode static: of each operator's output that is quantized, by name
  std::int64_t step_tokens = 0;                // that it computes, of a model with a cache; else 0
  std::vector<CacheTensors> caches;            // keys and values of each layer, in order
  std::map<OnnxGraph::Id, Encoding> integers;  // mode static: of inputs and outputs that are integers
};

struct LoweredModel {
  LoweredModel(const Checkpoint& checkpoint, DistinctTensors& distinct, bool saturate_fp16)
      : data(checkpoint, distinct, saturate_fp16) {}

  std::vector<std::unique_ptr<OnnxModel>>
      models;  // in order of execution; with a cache, for one step size after another
  DataStore data;
  std::vector<StoredLayer> layers;
  bool dynamic_as_weight_only = false;  // some layer has integer weights and floating-point activations instead
  bool has_blocks = false;              // some weight has scales for blocks, which not every NPU takes
  std::optional<MaskValues> mask;       // of models with a cache
};

// `positions` are those of model.graph at the model's length, or at the cache's. Errors: kUnsupported for what QNN has
// no operator for and for more shards than there are pieces, kInvalidArgument for missing or impossible ranges.
std::unique_ptr<LoweredModel> lower(const Model& model, const QuantizationPlan& plan, const PositionValues& positions,
                                    DistinctTensors& distinct, const LoweringSettings& settings);

}  // namespace diffulex_edge::qnn
