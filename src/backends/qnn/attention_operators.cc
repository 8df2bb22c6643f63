#include "backends/qnn/attention_operators.h"

#include <algorithm>
#include <span>
#include <vector>

#include "backends/qnn/mask_ranges.h"
#include "quant/static_graph.h"

namespace diffulex_edge::qnn {

// Query heads that share a key head lie below each other, so that keys and values need no copies.
Value AttentionOperators::attend(const AttentionOperands& operands) {
  const Sizes heads_first = {0, 2, 1, 3};
  Value q = writer_.transpose(operands.queries, heads_first);
  const bool is_step = operands.step != nullptr;
  const Value k = is_step ? operands.step->with_past_keys(operands.number, operands.keys)
                          : writer_.transpose(operands.keys, {0, 2, 3, 1});
  const Value v = is_step ? operands.step->with_past_values(operands.number, operands.values)
                          : writer_.transpose(operands.values, heads_first);
  const std::int64_t heads = writer_.sizes(q.id)[1];
  const std::int64_t length = writer_.sizes(q.id)[2];
  const std::int64_t size = writer_.sizes(q.id)[3];
  const std::int64_t key_heads = writer_.sizes(v.id)[1];
  const std::int64_t keys = writer_.sizes(v.id)[2];
  const std::int64_t group = heads / key_heads;
  const float scale = operands.scale;
  q = writer_.binary("Mul", q, writer_.constant(std::span(&scale, 1), {1}, "scale"), scaled(q.range, scale));
  q = writer_.reshape(q, {1, key_heads, group * length, size});
  Value scores = writer_.matmul(q, k, operands.scores);
  if (operands.mask.block_length > 0 || operands.mask.added) {
    scores = masked(writer_.reshape(scores, {key_heads, group, length, keys}), operands.mask);
  }
  const Value shares = writer_.unary("Softmax", scores, kShares, {{"axis", std::int64_t{-1}}});
  const Value mixed = writer_.matmul(writer_.reshape(shares, {1, key_heads, group * length, keys}), v, operands.result);
  const Value by_head = writer_.transpose(writer_.reshape(mixed, {1, heads, length, size}), heads_first);
  return writer_.reshape(by_head, {length, heads * size});
}

// In integers, what is masked saturates a little below the least score: the range stays narrow.
Value AttentionOperators::masked(const Value& scores, const AttentionMask& mask) {
  if (mask.added) {
    return writer_.binary("Add", scores, *mask.added, mask.sum);
  }
  const ActivationRange range = bits_ ? masked_range(scores.range, *bits_) : ActivationRange{};
  const float far = bits_ ? range.min - range.max : kMasked;
  return writer_.binary("Add", scores, block_mask(writer_.sizes(scores.id).back(), mask.block_length, far), range);
}

// [1, 1, seq, seq]: `far` where the key's block lies behind the query's, else 0.
Value AttentionOperators::block_mask(std::int64_t length, std::int64_t block, float far) {
  const auto [position, inserted] = block_masks_.emplace(std::tuple(length, block, far), Value{});
  if (inserted) {
    std::vector<float> values(static_cast<std::size_t>(length * length));
    for (std::int64_t i = 0; i < length; ++i) {
      const std::int64_t seen = std::min(length, (i / block + 1) * block);
      std::fill(values.begin() + i * length + seen, values.begin() + (i + 1) * length, far);
    }
    position->second = writer_.constant(values, {1, 1, length, length}, "mask");
  }
  return position->second;
}

}  // namespace diffulex_edge::qnn
