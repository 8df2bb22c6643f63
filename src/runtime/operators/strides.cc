#include "runtime/operators/strides.h"

#include <cstddef>

namespace diffulex_edge::operators {

std::vector<std::int64_t> Tensors::sizes(std::size_t sequence) const {
  return sizes_at(shape_, is_shared_ ? 0 : batch_.length(sequence));
}

std::vector<std::int64_t> dense_strides(const std::vector<std::int64_t>& sizes) {
  std::vector<std::int64_t> strides(sizes.size(), 1);
  for (std::size_t i = sizes.size(); i-- > 1;) {
    strides[i - 1] = strides[i] * sizes[i];
  }
  return strides;
}

std::vector<std::int64_t> broadcast_strides(const std::vector<std::int64_t>& sizes,
                                            const std::vector<std::int64_t>& target) {
  const std::vector<std::int64_t> dense = dense_strides(sizes);
  std::vector<std::int64_t> strides(target.size(), 0);
  const std::size_t missing = target.size() - sizes.size();
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    strides[missing + i] = sizes[i] == 1 ? 0 : dense[i];
  }
  return strides;
}

Rows::Rows(const std::vector<std::int64_t>& sizes) : sizes_(sizes) {
  for (std::size_t i = 0; i + 1 < sizes.size(); ++i) {
    count_ *= sizes[i];
  }
}

std::int64_t Rows::offset(std::int64_t row, const std::vector<std::int64_t>& strides) const {
  std::int64_t offset = 0;
  for (std::size_t i = sizes_.size() < 2 ? 0 : sizes_.size() - 1; i-- > 0;) {
    offset += row % sizes_[i] * strides[i];
    row /= sizes_[i];
  }
  return offset;
}

}  // namespace diffulex_edge::operators
