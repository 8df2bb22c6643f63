// Attention over keys and values that stay in the program from one execution to the next.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "backends/xnnpack/delegate_values.h"
#include "backends/xnnpack/lowering.h"

namespace diffulex_edge::xnnpack {

// Each layer has a buffer for keys and one for values, [kv heads, tokens, dim], and a view of each head's first rows.
// An execution gives the views the rows that it sees, [positions, dim]: nothing is copied to read the cache. Rows of 8
// bits are 127ths of their greatest magnitude, which further buffers hold, [tokens, kv heads]. Scores are those of the
// fractions, times the keys' magnitudes; softmax is taken times the values' magnitudes before it meets the fractions.
class CachedAttention {
 public:
  CachedAttention(DelegateValues& values, CachePlan plan) : values_(values), plan_(std::move(plan)) {}

  // Behind input_ids: the argument start_pos, what follows from it and from the number of tokens, and all buffers.
  void begin(std::int32_t token_count);
  // Positions of the tokens, from start_pos on.
  void positions(ValueId value);
  // The block-causal mask of the tokens over all positions up to their end.
  void mask(ValueId value);
  // Ends the delegate, whose keys and values go to the cache, and attends in the next one.
  void attention(ValueId value);
  // Before the head: where the logits are not of all tokens, ends the delegate, and begins the next one with the rows
  // of `hidden` [1, tokens, width] that they are of.
  void choose_rows(ValueId hidden);

 private:
  struct Part {
    std::int32_t buffer = -1;
    std::vector<std::int32_t> views;  // of each head
    std::int32_t magnitudes = -1;     // of rows of 8 bits
    std::int32_t seen_magnitudes = -1;
  };
  using Layer = std::array<Part, 2>;  // keys, values

  // What an execution adds to a part: tensors of the program.
  struct Fresh {
    std::int32_t rows = -1;
    std::int32_t magnitudes = -1;
  };

  // The number in a tensor of one, as the program's integer. Ends an execution with ExecuTorch's InvalidArgument where
  // it is not in [0, limit): beyond 31 bits its own checks abort.
  std::int32_t checked_number(std::int32_t tensor, std::int64_t limit);
  Part make_part(const Shape& keys);
  // Another tensor for a buffer's first rows, which it has at run time: as many as are seen.
  std::int32_t seen_rows(std::int32_t buffer, std::int64_t offset, std::int64_t width);
  bool is_quantized() const { return plan_.dtype == DType::kI8; }
  // A tensor for positions from `begin` to the tokens' end.
  std::int32_t numbers(executorch::schema::ScalarType type, std::int64_t longest, std::int32_t begin);
  // For a layer's new keys (part 0) or values (1), [kv heads, tokens, dim], and their magnitudes [tokens, kv heads]:
  // they go to the cache before the next layer.
  Fresh fresh_tensors(std::size_t part, const Shape& keys);
  // Keys or values of the delegate in the cache's layout and type, as its outputs.
  void give_to_cache(ValueId value, const Fresh& fresh);
  void give_fractions(ValueId value, const Fresh& fresh);
  // A part's magnitudes for all heads, [kv heads, positions].
  XnnId magnitudes(const Part& part, std::uint32_t kv_heads, DType type);
  // `x` [rows, positions] times those of one head.
  XnnId scaled(XnnId x, XnnId magnitudes, std::uint32_t head, DType type);
  // The numbers of the blocks that positions are in.
  XnnId blocks(XnnId positions, std::int64_t block_length);
  // [kv head, queries of its group times tokens, dim], scaled: each head's queries are one matrix.
  XnnId queries(ValueId value, const Shape& keys, float scale, DType type);
  XnnId in_type(XnnId x, DType from, DType to);

  DelegateGraph& delegate() { return values_.delegate(); }

  DelegateValues& values_;
  CachePlan plan_;
  // The program's integers: tokens, start_pos, the position behind the last token, the number of positions that are
  // seen, 1.
  std::int32_t count_ = -1;
  std::int32_t begin_ = -1;
  std::int32_t end_ = -1;
  std::int32_t seen_ = -1;
  std::int32_t one_ = -1;
  std::int32_t rows_ = -1;  // the argument
  // Where rows are written: all heads, the tokens' positions; and their magnitudes: the tokens' positions.
  std::int32_t row_indices_ = -1;
  std::int32_t magnitude_indices_ = -1;
  std::map<std::int64_t, std::int32_t> seen_sizes_;                             // by width
  std::map<std::tuple<std::size_t, std::int64_t, std::int64_t>, Fresh> fresh_;  // by part, heads, dim
  std::map<ValueId, Layer> layers_;                                             // by the attention
  std::map<ValueId, std::int32_t> masks_;  // tensors [queries of a group times tokens, positions], float32
};

}  // namespace diffulex_edge::xnnpack
