// GPTQ, as AutoGPTQ and GPTQModel write it. Of a weight [out, in] with B bits:
//   qweight int32 [in * B / 32, out]        each column is a stream of integers, the first in the lowest bits
//   qzeros  int32 [groups, out * B / 32]    each row is a stream of zero points, minus 1 in version 1 of the format
//   scales  float [groups, out]
//   g_idx   int32 [in]                 each input's group; absent: input / group_size
// value = (integer - zero) * scale

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <numeric>
#include <utility>

#include "checkpoint/prequantized/methods.h"
#include "checkpoint/prequantized/packed_values.h"
#include "checkpoint/row_decoder.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

struct GptqShape {
  int bits = 0;
  std::int64_t rows = 0;     // out
  std::int64_t columns = 0;  // in
  std::int64_t groups = 0;
  std::int64_t group_size = 0;

  // A unit is the fewest words that hold a whole number of integers: one, or three with 32 integers of 3 bits.
  std::int64_t unit_words() const { return bits == 3 ? 3 : 1; }
  std::int64_t unit_values() const { return unit_words() * 32 / bits; }
  std::int64_t zero_words() const { return rows / unit_values() * unit_words(); }
};

class GptqWeight final : public RowDecoder {
 public:
  GptqWeight(std::string name, const GptqShape& shape, std::string what, std::vector<Part> parts, bool zeros_less_one)
      : RowDecoder(std::move(name), {shape.rows, shape.columns}, std::move(what), std::move(parts)),
        shape_(shape),
        zero_offset_(zeros_less_one ? 1 : 0) {
    static_cast<void>(groups_of_columns());
  }

  void decode(std::int64_t row_begin, std::int64_t count, std::span<float> target) const override {
    const std::vector<std::int64_t> groups = groups_of_columns();
    std::vector<float> zeros;
    std::vector<float> scales;
    load_groups(row_begin, count, zeros, scales);
    const std::int64_t unit_words = shape_.unit_words();
    std::array<std::uint32_t, 3> words{};
    for (std::int64_t unit = 0; unit < shape_.columns / shape_.unit_values(); ++unit) {
      const std::int64_t first = unit * shape_.unit_values();
      for (std::int64_t i = 0; i < count; ++i) {
        for (std::int64_t word = 0; word < unit_words; ++word) {
          words[static_cast<std::size_t>(word)] =
              element_at<std::uint32_t>(part(0), (unit * unit_words + word) * shape_.rows + row_begin + i);
        }
        float* values = target.data() + i * shape_.columns + first;
        for (std::int64_t k = 0; k < shape_.unit_values(); ++k) {
          const auto at = static_cast<std::size_t>(groups[static_cast<std::size_t>(first + k)] * count + i);
          values[k] = (static_cast<float>(unpack_stream(words, k, shape_.bits)) - zeros[at]) * scales[at];
        }
      }
    }
  }

 private:
  // Of these rows, [groups, count].
  void load_groups(std::int64_t row_begin, std::int64_t count, std::vector<float>& zeros,
                   std::vector<float>& scales) const {
    std::vector<std::uint32_t> words(static_cast<std::size_t>(shape_.zero_words()));
    for (std::int64_t group = 0; group < shape_.groups; ++group) {
      std::memcpy(words.data(), part(1).bytes.data() + static_cast<std::size_t>(group) * words.size() * 4,
                  words.size() * 4);
      for (std::int64_t row = row_begin; row < row_begin + count; ++row) {
        zeros.push_back(static_cast<float>(unpack_stream(words, row, shape_.bits) + zero_offset_));
        scales.push_back(float_at(part(2), group * shape_.rows + row));
      }
    }
  }

  std::vector<std::int64_t> groups_of_columns() const {
    std::vector<std::int64_t> groups(static_cast<std::size_t>(shape_.columns));
    const bool listed = parts().size() > 3;
    for (std::int64_t i = 0; i < shape_.columns; ++i) {
      const std::int64_t group = listed ? element_at<std::int32_t>(part(3), i) : i / shape_.group_size;
      if (group < 0 || group >= shape_.groups) {
        fail_tensor(part(listed ? 3 : 2), "gives input " + std::to_string(i) + " the group " + std::to_string(group) +
                                              " of " + std::to_string(shape_.groups));
      }
      groups[static_cast<std::size_t>(i)] = group;
    }
    return groups;
  }

  GptqShape shape_;
  std::uint32_t zero_offset_;
};

// Of tensors that agree with one another: the bits follow from the zero points, the inputs from the bits.
GptqShape shape_of(const GroupedTensors& tensors, const PrequantizedScheme& scheme) {
  const auto& [qweight, qzeros, scales] = tensors;
  if (qweight.shape.size() != 2 || qzeros.shape.size() != 2 || scales.shape.size() != 2 || qweight.bytes.empty() ||
      qzeros.bytes.empty()) {
    fail_tensor(qweight, "and its zero points and scales have the shapes " + shape_string(qweight) + ", " +
                             shape_string(qzeros) + " and " + shape_string(scales) + ", not two dimensions each");
  }
  GptqShape shape{.bits = scheme.bits, .rows = qweight.shape[1], .groups = scales.shape[0]};
  if (scheme.differs_by_layer) {
    shape.bits = static_cast<int>(std::min<std::int64_t>(32, qzeros.shape[1] * 32 / shape.rows));
  }
  if (shape.bits != 2 && shape.bits != 3 && shape.bits != 4 && shape.bits != 8) {
    throw Error(ErrorCode::kUnsupported, qweight.where(),
                "is GPTQ with " + std::to_string(shape.bits) + " bits; those of 2, 3, 4 and 8 bits are read",
                "start from the unquantized checkpoint");
  }
  if (qweight.shape[0] % shape.unit_words() != 0) {
    fail_tensor(qweight, "has " + std::to_string(qweight.shape[0]) + " words of " + std::to_string(shape.bits) +
                             " bits for each output, which hold no whole number of inputs");
  }
  shape.columns = qweight.shape[0] / shape.unit_words() * shape.unit_values();
  if (shape.rows % shape.unit_values() != 0) {
    fail_tensor(qweight, "has " + std::to_string(shape.rows) + " outputs, which do not fill the words of zero points");
  }
  require_shape(qzeros, {shape.groups, shape.zero_words()});
  require_shape(scales, {shape.groups, shape.rows});
  shape.group_size = scheme.group_size > 0 ? scheme.group_size : shape.columns;
  if (scheme.differs_by_layer) {
    shape.group_size = (shape.columns + shape.groups - 1) / shape.groups;
  }
  if ((shape.columns + shape.group_size - 1) / shape.group_size != shape.groups) {
    fail_tensor(scales, "has " + std::to_string(shape.groups) + " groups; " + std::to_string(shape.columns) +
                            " inputs in groups of " + std::to_string(shape.group_size) + " have others");
  }
  return shape;
}

std::string name_of(const GptqShape& shape, bool reordered) {
  const std::string groups = shape.groups == 1 ? " per channel" : " in groups of " + std::to_string(shape.group_size);
  return "GPTQ INT" + std::to_string(shape.bits) + groups + (reordered ? ", inputs reordered" : "");
}

bool is_reordered(const TensorView& indices, const GptqShape& shape) {
  for (std::int64_t i = 0; i < shape.columns; ++i) {
    if (element_at<std::int32_t>(indices, i) != i / shape.group_size) {
      return true;
    }
  }
  return false;
}

}  // namespace

std::int64_t read_gptq(Checkpoint& checkpoint, const PrequantizedScheme& scheme) {
  std::int64_t count = 0;
  for (const std::string& prefix : prefixes_of(checkpoint, ".qweight")) {
    const LayerTensors layer(checkpoint, prefix);
    const GroupedTensors tensors(layer);
    const GptqShape shape = shape_of(tensors, scheme);
    std::vector<RowDecoder::Part> parts = tensors.parts(RowLayout::kInterleaved, RowLayout::kTable);
    bool reordered = false;
    if (layer.find(".g_idx") != nullptr) {
      const TensorView& indices = layer.require(".g_idx", {DType::kI32});
      require_shape(indices, {shape.columns});
      reordered = is_reordered(indices, shape);
      parts.push_back({.view = indices, .layout = RowLayout::kTable});
    }
    const std::string what = name_of(shape, reordered);
    const std::vector<std::string> replaced = layer.present({".qweight", ".qzeros", ".scales", ".g_idx"});
    checkpoint.replace(replaced, std::make_unique<const GptqWeight>(prefix + ".weight", shape, what, std::move(parts),
                                                                    scheme.zeros_less_one));
    ++count;
  }
  return count;
}

}  // namespace diffulex_edge
