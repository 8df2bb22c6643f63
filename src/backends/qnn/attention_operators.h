// Attention in operators that Qualcomm's compiler takes: products of matrices, a softmax, and what is added to hide
// scores.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <tuple>

#include "backends/qnn/step_tensors.h"
#include "backends/qnn/value_writer.h"
#include "diffulex_edge/activations.h"

namespace diffulex_edge::qnn {

// What hides scores: the places of query and key, a value that is added, or nothing.
struct AttentionMask {
  std::int64_t block_length = 0;  // position i sees j where floor(j / B) <= floor(i / B); 0: no such mask
  std::optional<Value> added;     // broadcasts to [H, seq, seq]
  ActivationRange sum;            // mode static: of the scores with `added`
};

struct AttentionOperands {
  Value queries;  // [1, seq, H, D]
  Value keys;     // [1, seq, K, D], as the values; H is a multiple of K
  Value values;
  float scale = 1.0F;  // of the scores
  AttentionMask mask;
  ActivationRange scores;       // mode static: before the mask
  ActivationRange result;       // mode static
  StepTensors* step = nullptr;  // where the host keeps keys and values of earlier tokens, which the queries see too
  std::int64_t number = 0;      // of the layer there
};

class AttentionOperators {
 public:
  // `bits` in mode static, else nothing: floating point. Keeps the reference.
  AttentionOperators(ValueWriter& writer, std::optional<int> bits) : writer_(writer), bits_(bits) {}

  // [seq, H * D]
  Value attend(const AttentionOperands& operands);

 private:
  Value masked(const Value& scores, const AttentionMask& mask);
  Value block_mask(std::int64_t length, std::int64_t block, float far);

  ValueWriter& writer_;
  std::optional<int> bits_;
  std::map<std::tuple<std::int64_t, std::int64_t, float>, Value> block_masks_;  // by length, block and what hides
};

}  // namespace diffulex_edge::qnn
