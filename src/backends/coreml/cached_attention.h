// Attention of one step's tokens over keys and values of all tokens before them.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "backends/coreml/mil_operations.h"
#include "backends/coreml/options.h"
#include "backends/coreml/step_inputs.h"

namespace diffulex_edge::coreml {

// A layer's keys and values are [1, kv heads, tokens, dim]. In states, the function writes those of the step into them,
// and attends to all of the buffer under a mask that hides what is not there: every size is fixed, as the Neural Engine
// wants it. As inputs and outputs, the function gets those of earlier tokens and gives the step's, which the caller
// writes into its own buffers at the tokens' positions.
class CachedAttention {
 public:
  CachedAttention(MilOperations& operations, StepInputs& step, CacheStorage storage)
      : operations_(operations), step_(step), storage_(storage) {}

  // Takes the names of so many layers' states, or inputs and outputs, so that no operation gets them.
  void take_names(std::int64_t layers);

  // What an attention takes: [1, heads, B, dim], and keys and values of kv heads; its result is as the queries are.
  struct Operands {
    Id queries = 0;
    Id keys = 0;
    Id values = 0;
  };
  // The same over the cache. Query heads that share a key head lie below each other, [1, kv heads, group * B, dim], so
  // that keys and values need no copies.
  struct Seen {
    Id queries = 0;
    Id keys = 0;    // [1, kv heads, rows, dim]
    Id values = 0;  // the same
    Id mask = 0;    // added to scores: [group * B, rows], or [1, rows]
  };
  // `layer`: its number in the whole model. `block_length`: of the block-causal mask; 0 is none.
  Seen see(const Operands& operands, std::int64_t layer, std::int64_t block_length);

  // The function's outputs for the caller's cache, in order.
  void add_outputs();
  // Of the caches so far.
  std::int64_t bytes() const { return bytes_; }

 private:
  std::int64_t cache_rows() const;
  Id with_cache(std::string_view part, std::int64_t layer, Id fresh);
  // Where the step begins and ends in a state, int32 [4].
  std::pair<Id, Id> write_range();
  Id in_state(const std::string& name, Id fresh);
  Id old_where_padded(Id cache, Id fresh);
  Id behind_input(const std::string& name, Id fresh);

  // Whole numbers in float32, which holds every position.
  Id number(Id integers) { return operations_.cast(integers, MilDtype::kFloat32); }
  Id numbers(std::int64_t count);  // 0 to count
  Id single(float value);
  Id combined(std::string_view operation, Id x, Id y, Shape type);
  // 0 where a place is less than `bound` [1], else -1.
  Id hidden_from(Id places, Id bound);
  // The numbers of the blocks that positions are in.
  Id blocks(Id positions, std::int64_t block_length);
  // For each row of the cache, and with it of the step where that is apart, its position and 0, or -1 where nobody sees
  // it.
  struct Rows {
    Id positions = 0;
    Id hidden = 0;
  };
  Rows rows();
  Id mask(std::int64_t block_length, std::int64_t group);

  MilFunction& function() { return operations_.function(); }
  // A copy: the function's own moves with each operation that it gets.
  Shape shape(Id id) const { return operations_.shape(id); }

  MilOperations& operations_;
  StepInputs& step_;
  CacheStorage storage_;
  std::map<std::pair<std::int64_t, std::int64_t>, Id> masks_;  // by block length and group
  std::optional<std::pair<Id, Id>> write_range_;
  std::vector<std::pair<Id, std::string>> outputs_;
  std::int64_t bytes_ = 0;
};

}  // namespace diffulex_edge::coreml
