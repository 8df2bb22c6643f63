// Keys and values of tokens that went through the graph before, for attention to read again.
//
// Exact for block-causal models where a sequence goes on at the border of a block: nothing later changes what finished
// blocks have.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "diffulex_edge/graph.h"

namespace diffulex_edge {

class KeyValueCache {
 public:
  // Of one sequence at one attention: [tokens, width] each, from position 0 on.
  struct Tokens {
    std::span<const float> keys;
    std::span<const float> values;
  };

  // Writes those of the tokens from position `start` on, whatever was there, and forgets what is behind them. Returns
  // all that there are now, valid until the next call for this sequence. Error{kInvalidArgument} where positions before
  // `start` are missing.
  Tokens put(ValueId attention, std::size_t sequence, std::int64_t start, std::span<const float> keys,
             std::span<const float> values, std::int64_t width);

  void clear() { sequences_.clear(); }
  std::int64_t bytes() const;

 private:
  struct Sequence {
    std::vector<float> keys;
    std::vector<float> values;
  };
  std::map<ValueId, std::vector<Sequence>> sequences_;  // by attention
};

}  // namespace diffulex_edge
