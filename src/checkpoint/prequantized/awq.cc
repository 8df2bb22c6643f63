// AWQ in the packing of AutoAWQ's "gemm" kernels. Of a weight [out, in] with 4 bits:
//   qweight int32 [in, out / 8]        integers of 8 neighbouring outputs, in the order that the kernels want
//   qzeros  int32 [groups, out / 8]    zero points, packed alike
//   scales  float [groups, out]
// value = (integer - zero) * scale

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

class AwqWeight final : public RowDecoder {
 public:
  AwqWeight(std::string name, std::int64_t rows, std::int64_t columns, std::int64_t group_size, std::string what,
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

}  // namespace

std::int64_t read_awq(Checkpoint& checkpoint, const PrequantizedScheme& scheme) {
  std::int64_t count = 0;
  for (const std::string& prefix : prefixes_of(checkpoint, ".qweight")) {
    const LayerTensors layer(checkpoint, prefix);
    const TensorView& qweight = layer.require(".qweight", {DType::kI32});
    const TensorView& qzeros = layer.require(".qzeros", {DType::kI32});
    const TensorView& scales = layer.require(".scales", {DType::kF16, DType::kBF16, DType::kF32});
    if (qweight.shape.size() != 2 || qweight.bytes.empty()) {
      fail_tensor(qweight, "has the shape " + shape_string(qweight) + ", not two dimensions");
    }
    const std::int64_t columns = qweight.shape[0];
    const std::int64_t rows = qweight.shape[1] * kPerWord;
    const std::int64_t group_size = scheme.group_size > 0 ? scheme.group_size : columns;
    const std::int64_t groups = (columns + group_size - 1) / group_size;
    require_shape(qzeros, {groups, rows / kPerWord});
    require_shape(scales, {groups, rows});
    const std::string what =
        "AWQ INT4" + (groups == 1 ? std::string(" per channel") : " in groups of " + std::to_string(group_size));
    checkpoint.replace(layer.present({".qweight", ".qzeros", ".scales"}),
                       std::make_unique<const AwqWeight>(
                           prefix + ".weight", rows, columns, group_size, what,
                           std::vector<RowDecoder::Part>{{.view = qweight, .layout = RowLayout::kInterleaved},
                                                         {.view = qzeros, .layout = RowLayout::kTable},
                                                         {.view = scales, .layout = RowLayout::kTable}}));
    ++count;
  }
  return count;
}

}  // namespace diffulex_edge
