// compressed-tensors, as llm-compressor writes it. Of a layer NAME with a weight [out, in]:
//   pack-quantized   NAME.weight_packed int32 [out, ceil(in * B / 32)]   integers + 2^(B - 1), the first in the lowest
//   bits
//                    NAME.weight_shape int64 [2]
//                    NAME.weight_zero_point int32 [ceil(out * B / 32), groups]   packed along the outputs; where
//                    asymmetric NAME.weight_g_idx int32 [in]   each input's group, where activations ordered them
//   int-quantized, float-quantized, naive-quantized
//                    NAME.weight INT8 or FP8 [out, in], NAME.weight_zero_point int8 where asymmetric
//   all              NAME.weight_scale [out, groups], [out, 1], [1], or one for each block
// value = (integer - zero) * scale

#include <algorithm>
#include <array>
#include <memory>
#include <utility>

#include "checkpoint/prequantized/methods.h"
#include "checkpoint/prequantized/packed_values.h"
#include "checkpoint/prequantized/scaled_weight.h"
#include "checkpoint/row_decoder.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

constexpr std::initializer_list<DType> kScaleTypes = {DType::kF32, DType::kBF16, DType::kF16};

struct PackedShape {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  int bits = 0;
  std::int64_t groups = 1;      // of a row
  std::int64_t group_size = 0;  // columns
  bool one_scale = false;       // for the whole tensor

  int per_word() const { return 32 / bits; }
};

// The tensors of one weight; the last two may be absent.
struct PackedTensors {
  const TensorView& values;
  const TensorView& scales;
  const TensorView* zeros;
  const TensorView* groups;
};

class PackedIntegers final : public RowDecoder {
 public:
  PackedIntegers(std::string name, const PackedShape& shape, std::string what, const PackedTensors& tensors)
      : RowDecoder(std::move(name), {shape.rows, shape.columns}, std::move(what), parts_of(tensors)),
        shape_(shape),
        has_zeros_(tensors.zeros != nullptr),
        has_groups_(tensors.groups != nullptr) {
    static_cast<void>(groups_of_columns());
  }

  void decode(std::int64_t row_begin, std::int64_t count, std::span<float> target) const override {
    const std::vector<std::int64_t> groups = groups_of_columns();
    const std::int64_t words = part(0).shape[1];
    std::vector<float> zeros(static_cast<std::size_t>(shape_.groups));
    std::vector<float> scales(static_cast<std::size_t>(shape_.groups));
    for (std::int64_t row = row_begin; row < row_begin + count; ++row) {
      for (std::int64_t group = 0; group < shape_.groups; ++group) {
        zeros[static_cast<std::size_t>(group)] = zero_of(row, group);
        scales[static_cast<std::size_t>(group)] = float_at(part(1), shape_.one_scale ? 0 : row * shape_.groups + group);
      }
      float* values = target.data() + (row - row_begin) * shape_.columns;
      for (std::int64_t column = 0; column < shape_.columns; ++column) {
        const auto word = element_at<std::uint32_t>(part(0), row * words + column / shape_.per_word());
        const auto integer = unpack(word, static_cast<int>(column % shape_.per_word()), shape_.bits);
        const auto group = static_cast<std::size_t>(groups[static_cast<std::size_t>(column)]);
        values[column] = (static_cast<float>(integer) - zeros[group]) * scales[group];
      }
    }
  }

 private:
  static std::vector<Part> parts_of(const PackedTensors& tensors) {
    std::vector<Part> parts = {{.view = tensors.values, .layout = RowLayout::kConsecutive},
                               {.view = tensors.scales, .layout = RowLayout::kTable}};
    for (const TensorView* more : {tensors.zeros, tensors.groups}) {
      if (more != nullptr) {
        parts.push_back({.view = *more, .layout = RowLayout::kTable});
      }
    }
    return parts;
  }

  // As it is packed, with 2^(bits - 1) added.
  float zero_of(std::int64_t row, std::int64_t group) const {
    const std::uint32_t middle = 1U << static_cast<unsigned>(shape_.bits - 1);
    if (!has_zeros_) {
      return static_cast<float>(middle);
    }
    const TensorView& zeros = part(2);
    if (zeros.dtype == DType::kI8) {
      return static_cast<float>(middle) + float_at(zeros, shape_.one_scale ? 0 : row * shape_.groups + group);
    }
    const auto word = element_at<std::uint32_t>(zeros, row / shape_.per_word() * shape_.groups + group);
    return static_cast<float>(unpack(word, static_cast<int>(row % shape_.per_word()), shape_.bits));
  }

  std::vector<std::int64_t> groups_of_columns() const {
    std::vector<std::int64_t> groups(static_cast<std::size_t>(shape_.columns));
    for (std::int64_t i = 0; i < shape_.columns; ++i) {
      const std::int64_t group = has_groups_ ? element_at<std::int32_t>(parts().back().view, i) : i / shape_.group_size;
      if (group < 0 || group >= shape_.groups) {
        fail_tensor(parts().back().view, "gives input " + std::to_string(i) + " the group " + std::to_string(group) +
                                             " of " + std::to_string(shape_.groups));
      }
      groups[static_cast<std::size_t>(i)] = group;
    }
    return groups;
  }

  PackedShape shape_;
  bool has_zeros_;
  bool has_groups_;
};

PackedShape packed_shape(const LayerTensors& layer, const TensorView& values, const TensorView& scales) {
  const TensorView& sizes = layer.require(".weight_shape", {DType::kI64, DType::kI32});
  require_shape(sizes, {2});
  const auto size_at = [&](std::int64_t i) {
    return sizes.dtype == DType::kI64 ? element_at<std::int64_t>(sizes, i) : element_at<std::int32_t>(sizes, i);
  };
  PackedShape shape{.rows = size_at(0), .columns = size_at(1)};
  constexpr std::int64_t kMost = std::int64_t{1} << 31U;
  if (shape.rows < 1 || shape.columns < 1 || shape.rows > kMost || shape.columns > kMost) {
    fail_tensor(sizes, "is [" + std::to_string(shape.rows) + ", " + std::to_string(shape.columns) +
                           "], which is the shape of no weight");
  }
  if (values.shape.size() != 2 || values.shape[0] != shape.rows) {
    fail_tensor(values, "has the shape " + shape_string(values) + ", weight_shape gives it " +
                            std::to_string(shape.rows) + " rows");
  }
  for (const int bits : {8, 4, 2}) {
    if (values.shape[1] == (shape.columns * bits + 31) / 32) {
      shape.bits = bits;
    }
  }
  if (shape.bits == 0) {
    throw Error(ErrorCode::kUnsupported, values.where(),
                "has " + std::to_string(values.shape[1]) + " words for " + std::to_string(shape.columns) +
                    " inputs; integers of 2, 4 and 8 bits are read",
                "start from the unquantized checkpoint");
  }
  const ScaleBlocks blocks = scale_blocks(scales, shape.rows, shape.columns, 0, 0);
  shape.groups = blocks.scales_per_row;
  shape.group_size = blocks.columns;
  shape.one_scale = blocks.rows >= shape.rows && scales.elements() == 1;
  return shape;
}

void check_zeros(const TensorView& zeros, const TensorView& scales, const PackedShape& shape) {
  if (zeros.dtype == DType::kI8) {
    require_shape(zeros, scales.shape);
  } else {
    require_shape(zeros, {(shape.rows + shape.per_word() - 1) / shape.per_word(), shape.groups});
  }
}

void read_packed(Checkpoint& checkpoint, const std::string& prefix) {
  const LayerTensors layer(checkpoint, prefix);
  const TensorView& values = layer.require(".weight_packed", {DType::kI32});
  const TensorView& scales = layer.require(".weight_scale", kScaleTypes);
  const PackedShape shape = packed_shape(layer, values, scales);
  const TensorView* zeros = nullptr;
  if (layer.find(".weight_zero_point") != nullptr) {
    zeros = &layer.require(".weight_zero_point", {DType::kI32, DType::kI8});
    check_zeros(*zeros, scales, shape);
  }
  const TensorView* groups = nullptr;
  if (layer.find(".weight_g_idx") != nullptr) {
    groups = &layer.require(".weight_g_idx", {DType::kI32});
    require_shape(*groups, {shape.columns});
  }
  const ScaleBlocks blocks{
      .rows = shape.one_scale ? shape.rows : 1, .columns = shape.group_size, .scales_per_row = shape.groups};
  const std::string what =
      "compressed-tensors INT" + std::to_string(shape.bits) + " " + to_string(blocks, shape.rows, shape.columns);
  auto weight = std::make_unique<const PackedIntegers>(prefix + ".weight", shape, what,
                                                       PackedTensors{values, scales, zeros, groups});
  checkpoint.replace(
      layer.present({".weight_packed", ".weight_scale", ".weight_shape", ".weight_zero_point", ".weight_g_idx",
                     ".input_scale", ".input_zero_point", ".output_scale", ".output_zero_point"}),
      std::move(weight));
}

void read_bytes(Checkpoint& checkpoint, const std::string& prefix, const PrequantizedScheme& scheme) {
  const LayerTensors layer(checkpoint, prefix);
  const TensorView& values = *layer.find(".weight");
  const TensorView& scales = layer.require(".weight_scale", kScaleTypes);
  if (values.shape.size() != 2) {
    fail_tensor(values, "has the shape " + shape_string(values) + ", not two dimensions");
  }
  const TensorView* zeros = layer.find(".weight_zero_point");
  if (zeros != nullptr) {
    // Those of FP8 weights are zeros of its own type.
    require_shape(layer.require(".weight_zero_point", {DType::kI8, values.dtype}), scales.shape);
  }
  const ScaleBlocks blocks =
      scale_blocks(scales, values.shape[0], values.shape[1], scheme.block_rows, scheme.block_columns);
  const std::string what = std::string("compressed-tensors ") + (values.dtype == DType::kI8 ? "INT8 " : "FP8 ") +
                           to_string(blocks, values.shape[0], values.shape[1]);
  checkpoint.replace(layer.present({".weight", ".weight_scale", ".weight_zero_point", ".input_scale",
                                    ".input_zero_point", ".output_scale", ".output_zero_point"}),
                     make_scaled_weight(values, scales, zeros, blocks, what));
}

}  // namespace

std::int64_t read_compressed_tensors(Checkpoint& checkpoint, const PrequantizedScheme& scheme) {
  std::int64_t count = 0;
  for (const std::string& prefix : prefixes_of(checkpoint, ".weight_packed")) {
    read_packed(checkpoint, prefix);
    ++count;
  }
  constexpr std::array kByteTypes = {DType::kI8, DType::kF8E4M3, DType::kF8E5M2};
  for (const std::string& prefix : prefixes_of(checkpoint, ".weight")) {
    if (std::ranges::find(kByteTypes, checkpoint.at(prefix + ".weight").dtype) != kByteTypes.end()) {
      read_bytes(checkpoint, prefix, scheme);
      ++count;
    }
  }
  return count;
}

}  // namespace diffulex_edge
