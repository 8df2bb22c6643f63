// What an ONNX model takes and gives where it computes the tokens of one step: their positions, a mask, and keys and
// values, which the host keeps. docs/USER_GUIDE.md has the host's loop.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "backends/qnn/value_writer.h"
#include "diffulex_edge/activations.h"
#include "diffulex_edge/graph.h"

namespace diffulex_edge::qnn {

struct OnnxModel;

struct CacheSettings {
  std::int64_t tokens = 0;                // that the host's buffers hold
  std::vector<std::int64_t> block_sizes;  // of a step, ascending: models for each
  bool is_bidirectional = false;
  bool in_8_bits = false;  // mode static: beside 16-bit activations as well
};

// Keys or values of one layer, of one type and encoding.
struct CacheTensors {
  OnnxGraph::Id past = -1;      // the input, of all positions: keys [1, heads, D, tokens], values [1, heads, tokens, D]
  OnnxGraph::Id fresh = -1;     // the output, of the step's tokens: [1, step, heads, D]
  std::int64_t token_axis = 0;  // of `past`
};

// What the host writes into the mask, in the mask's own type.
struct MaskValues {
  double hidden = 0.0;
  double visible = 0.0;
};

// Bits of cached integers: nullopt in floating point.
std::optional<int> cache_bits(const CacheSettings& settings, std::optional<int> bits);
// What is added to scores to hide them in every layer of the graph. `covered`: mode static.
float hiding_score(const Graph& graph, const GraphActivations* covered, int bits);
MaskValues mask_values(float hiding, std::optional<int> bits);

class StepTensors {
 public:
  // `bits` in mode static. `hiding` is the whole model's hiding_score. Keeps the references.
  StepTensors(const CacheSettings& settings, float hiding, OnnxModel& target, ValueWriter& writer, DataStore& data,
              OnnxDtype arithmetic, std::optional<int> bits);

  // The rows of `table` [positions, ...] that belong to the step's tokens.
  Value rows(const Value& table);
  // [1, 1, step, tokens + step]: the cached positions, then those of the step.
  const Value& mask();
  // Keys or values of layer `number` for the step's tokens, [1, step, heads, D], become an output. Returns them behind
  // the cached ones: keys [1, heads, D, tokens + step], values [1, heads, tokens + step, D].
  Value with_past_keys(std::int64_t number, const Value& keys);
  Value with_past_values(std::int64_t number, const Value& values);
  // Behind all other outputs.
  void add_outputs();

 private:
  struct Output {
    Id value = -1;
    std::string name;
  };

  Value with_past(const std::string& name, const Value& fresh, const Sizes& permutation, std::int64_t token_axis);

  CacheSettings settings_;
  float hiding_;
  OnnxModel& target_;
  ValueWriter& writer_;
  std::optional<int> bits_;
  std::optional<int> cache_bits_;
  ValueWriter cache_writer_;  // of the cache's integers
  Id positions_ = -1;
  std::optional<Value> mask_;
  std::vector<Output> outputs_;
};

}  // namespace diffulex_edge::qnn
