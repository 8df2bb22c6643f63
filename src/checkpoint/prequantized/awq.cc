// AWQ in the packings of AutoAWQ's kernels. Of a weight [out, in] with 4 bits, for "gemm":
//   qweight int32 [in, out / 8]        integers of 8 neighbouring outputs, in the order that the kernels want
//   qzeros  int32 [groups, out / 8]    zero points, packed alike
//   scales  float [groups, out]
// and for "gemv":
//   qweight int32 [out, in / 8]        integers of 8 neighbouring inputs, the first in the lowest bits
//   qzeros  int32 [out, W]             zero points of the groups, packed alike; W >= groups / 8
//   scales  float [out, 8 * W]         of which the first `groups` are used
// value = (integer - zero) * scale

#include <algorithm>
#include <memory>
#include <utility>

#include "checkpoint/prequantized/methods.h"
#include "checkpoint/prequantized/packed_values.h"
#include "checkpoint/row_decoder.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

constexpr int kBits = 4;
constexpr int kPerWord = 8;

// A word's nibbles are the outputs 0, 2, 4, 6, 1, 3, 5, 7 of its eight.
int nibble_of(std::int64_t row) { return static_cast<int>(row % 2 * 4 + row % kPerWord / 2); }

class GemmWeight final : public RowDecoder {
 public:
  GemmWeight(std::string name, std::int64_t rows, std::int64_t columns, std::int64_t group_size, std::string what,
             std::vector<Part> parts)
      : RowDecoder(std::move(name), {rows, columns}, std::move(what), std::move(parts)), group_size_(group_size) {}

  void decode(std::int64_t row_begin, std::int64_t count, std::span<float> target) const override {
    const std::int64_t width = rows() / kPerWord;
    std::vector<float> zeros(static_cast<std::size_t>(count));
    std::vector<float> scales(static_cast<std::size_t>(count));
    for (std::int64_t column = 0; column < columns(); ++column) {
      if (column % group_size_ == 0) {
        load_group(column / group_size_, row_begin, zeros, scales);
      }
      for (std::int64_t i = 0; i < count; ++i) {
        const std::int64_t row = row_begin + i;
        const auto word = element_at<std::uint32_t>(part(0), column * width + row / kPerWord);
        const auto at = static_cast<std::size_t>(i);
        target[static_cast<std::size_t>(i * columns() + column)] =
            (static_cast<float>(unpack(word, nibble_of(row), kBits)) - zeros[at]) * scales[at];
      }
    }
  }

 private:
  void load_group(std::int64_t group, std::int64_t row_begin, std::span<float> zeros, std::span<float> scales) const {
    for (std::size_t i = 0; i < zeros.size(); ++i) {
      const std::int64_t row = row_begin + static_cast<std::int64_t>(i);
      const auto word = element_at<std::uint32_t>(part(1), group * (rows() / kPerWord) + row / kPerWord);
      zeros[i] = static_cast<float>(unpack(word, nibble_of(row), kBits));
      scales[i] = float_at(part(2), group * rows() + row);
    }
  }

  std::int64_t group_size_;
};

class GemvWeight final : public RowDecoder {
 public:
  GemvWeight(std::string name, std::int64_t rows, std::int64_t columns, std::int64_t group_size, std::string what,
             std::vector<Part> parts)
      : RowDecoder(std::move(name), {rows, columns}, std::move(what), std::move(parts)), group_size_(group_size) {}

  void decode(std::int64_t row_begin, std::int64_t count, std::span<float> target) const override {
    const std::int64_t zero_words = part(1).shape[1];
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t row = row_begin + i;
      float* values = target.data() + i * columns();
      for (std::int64_t begin = 0; begin < columns(); begin += group_size_) {
        const std::int64_t group = begin / group_size_;
        const auto word = element_at<std::uint32_t>(part(1), row * zero_words + group / kPerWord);
        const auto zero = static_cast<float>(unpack(word, static_cast<int>(group % kPerWord), kBits));
        const float scale = float_at(part(2), row * zero_words * kPerWord + group);
        for (std::int64_t j = begin; j < std::min(columns(), begin + group_size_); ++j) {
          const auto packed = element_at<std::uint32_t>(part(0), (row * columns() + j) / kPerWord);
          values[j] = (static_cast<float>(unpack(packed, static_cast<int>(j % kPerWord), kBits)) - zero) * scale;
        }
      }
    }
  }

 private:
  std::int64_t group_size_;
};

std::unique_ptr<const RowDecoder> make_weight(const std::string& name, const GroupedTensors& tensors,
                                              const PrequantizedScheme& scheme) {
  const TensorView& qweight = tensors.qweight;
  if (qweight.shape.size() != 2 || qweight.bytes.empty()) {
    fail_tensor(qweight, "has the shape " + shape_string(qweight) + ", not two dimensions");
  }
  const bool is_gemv = scheme.packs_inputs;
  const std::int64_t rows = is_gemv ? qweight.shape[0] : qweight.shape[1] * kPerWord;
  const std::int64_t columns = is_gemv ? qweight.shape[1] * kPerWord : qweight.shape[0];
  const std::int64_t group_size = scheme.group_size > 0 ? scheme.group_size : columns;
  const std::int64_t groups = (columns + group_size - 1) / group_size;
  std::string what =
      "AWQ INT4" + (groups == 1 ? std::string(" per channel") : " in groups of " + std::to_string(group_size));
  if (!is_gemv) {
    require_shape(tensors.qzeros, {groups, rows / kPerWord});
    require_shape(tensors.scales, {groups, rows});
    return std::make_unique<const GemmWeight>(name, rows, columns, group_size, std::move(what),
                                              tensors.parts(RowLayout::kInterleaved, RowLayout::kTable));
  }
  const std::vector<std::int64_t>& zeros = tensors.qzeros.shape;
  if (zeros.size() != 2 || zeros[0] != rows || zeros[1] < (groups + kPerWord - 1) / kPerWord) {
    fail_tensor(tensors.qzeros, "has the shape " + shape_string(tensors.qzeros) + ", which has no room for " +
                                    std::to_string(groups) + " groups of " + std::to_string(rows) + " rows");
  }
  require_shape(tensors.scales, {rows, zeros[1] * kPerWord});
  return std::make_unique<const GemvWeight>(name, rows, columns, group_size, std::move(what),
                                            tensors.parts(RowLayout::kConsecutive, RowLayout::kConsecutive));
}

}  // namespace

std::int64_t read_awq(Checkpoint& checkpoint, const PrequantizedScheme& scheme) {
  std::int64_t count = 0;
  for (const std::string& prefix : prefixes_of(checkpoint, ".qweight")) {
    const LayerTensors layer(checkpoint, prefix);
    const GroupedTensors tensors(layer);
    checkpoint.replace(layer.present({".qweight", ".qzeros", ".scales"}),
                       make_weight(prefix + ".weight", tensors, scheme));
    ++count;
  }
  return count;
}

}  // namespace diffulex_edge
