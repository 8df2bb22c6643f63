// Masks: what is added to scores ahead of a softmax to hide some of them, as very negative numbers. Neither float16 nor
// integers hold such numbers beside the scores, and none is needed: far enough below all scores is as good.
#pragma once

#include <map>
#include <optional>
#include <vector>

#include "diffulex_edge/activations.h"
#include "diffulex_edge/graph.h"
#include "graph/position_values.h"

namespace diffulex_edge::qnn {

// What an operator hides with in floating point: float16 holds it, and exp() of it is 0.
inline constexpr float kMasked = -1e4F;

// Whether an attention's mask is decided by the places of query and key and a block length, and so is never a value.
bool has_block_mask(const Graph& graph, const Node& attention);

// Values that are known at export: those of PositionValues, and block causal masks that are read as values.
class KnownValues {
 public:
  KnownValues(const Graph& graph, const PositionValues& positions);

  const std::vector<float>* find(ValueId value) const;

 private:
  const PositionValues& positions_;
  std::map<ValueId, std::vector<float>> masks_;
};

class MaskRanges {
 public:
  // `covered`: what the integers of `bits` bits are to cover; nullptr: floating point.
  MaskRanges(const Graph& graph, const KnownValues& known, const GraphActivations* covered, int bits);

  // Mode static: of scores with their mask, that a kAdd or kAttention makes; what is hidden saturates at the bottom.
  // nullptr for any other value.
  const ActivationRange* sum(ValueId value) const {
    const auto found = sums_.find(value);
    return found == sums_.end() ? nullptr : &found->second;
  }
  // Of a value that is read only as a mask: what lies below may as well be this.
  std::optional<float> least(ValueId value) const { return least_[static_cast<std::size_t>(value)]; }

 private:
  void find_scores();
  void find_sums(const GraphActivations& covered, int bits);
  void find_least(bool is_static);
  ActivationRange sum_of(const ActivationRange& scores, ValueId mask, int bits) const;
  std::optional<float> least_of_use(ValueId user, std::size_t input, bool is_static) const;
  ActivationRange& range(ValueId value) { return ranges_[static_cast<std::size_t>(value)]; }
  const ActivationRange& range(ValueId value) const { return ranges_[static_cast<std::size_t>(value)]; }

  const Graph& graph_;
  const KnownValues& known_;
  std::vector<std::vector<ValueId>> users_;  // by ValueId, as all but sums_
  std::vector<bool> are_scores_;             // read only by a softmax, perhaps with more masks
  std::vector<ActivationRange> ranges_;
  std::map<ValueId, ActivationRange> sums_;
  std::map<ValueId, float> hiding_;  // of each sum: what hides the greatest score
  std::vector<std::optional<float>> least_;
};

}  // namespace diffulex_edge::qnn
