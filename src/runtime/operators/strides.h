// Tensors of each sequence as they lie in memory, for operators that move or combine their elements.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/operators/operators.h"

namespace diffulex_edge::operators {

// A value's tensors, one for each sequence; of a shared value the same for all.
class Tensors {
 public:
  Tensors(const OperatorContext& context, ValueId id)
      : batch_(context.batch),
        shape_(context.node(id).shape),
        begins_(context.plan.begins(id, context.batch)),
        is_shared_(context.plan.is_shared(id)) {}

  // Of what is to be computed: 1 for a shared value.
  std::size_t count() const { return is_shared_ ? 1 : batch_.sequences(); }
  std::int64_t begin(std::size_t sequence) const { return begins_[sequence]; }
  std::vector<std::int64_t> sizes(std::size_t sequence) const;

 private:
  const Batch& batch_;
  const Shape& shape_;
  std::vector<std::int64_t> begins_;
  bool is_shared_;
};

// Elements between neighbours along each dimension of a dense tensor.
std::vector<std::int64_t> dense_strides(const std::vector<std::int64_t>& sizes);
// Those of a tensor that is broadcast to `target`: 0 where its size is 1.
std::vector<std::int64_t> broadcast_strides(const std::vector<std::int64_t>& sizes,
                                            const std::vector<std::int64_t>& target);

// The rows of the last dimension of a dense tensor.
class Rows {
 public:
  explicit Rows(const std::vector<std::int64_t>& sizes);

  std::int64_t count() const { return count_; }
  std::int64_t width() const { return sizes_.empty() ? 1 : sizes_.back(); }
  // Where a row begins in a tensor with these strides.
  std::int64_t offset(std::int64_t row, const std::vector<std::int64_t>& strides) const;
  // From one element of a row to the next.
  static std::int64_t step(const std::vector<std::int64_t>& strides) { return strides.empty() ? 0 : strides.back(); }

 private:
  std::vector<std::int64_t> sizes_;
  std::int64_t count_ = 1;
};

}  // namespace diffulex_edge::operators
