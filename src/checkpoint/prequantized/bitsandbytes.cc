// bitsandbytes with 4 bits (NF4, FP4). Of a weight [out, in] with n elements in blocks of B:
//   NAME.weight uint8 [n / 2, 1]                 two indices a byte, the first in the high nibble
//   NAME.weight.quant_map float32 [16]           the values that indices stand for
//   NAME.weight.absmax float32 [n / B]           scales; or, quantized themselves,
//   NAME.weight.absmax uint8 [n / B]             indices into
//   NAME.weight.nested_quant_map float32 [256]   with a scale for each nested block of them in
//   NAME.weight.nested_absmax float32
//   NAME.weight.quant_state.bitsandbytes__nf4    JSON: shape, block sizes, offset
// value = quant_map[index] * (nested_quant_map[absmax] * nested_absmax + offset), each step rounded to float32.
//
// With 8 bits (LLM.int8):
//   NAME.weight int8 [out, in]
//   NAME.SCB float32 [out]                       the largest magnitude of each row
//   NAME.weight_format uint8                     0: rows lie one behind the other
// value = element * SCB * (1 / 127), each step rounded to float32.

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "checkpoint/prequantized/methods.h"
#include "checkpoint/prequantized/packed_values.h"
#include "checkpoint/row_decoder.h"
#include "core/json.h"
#include "core/mapped_file.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

struct BlockState {
  std::vector<std::int64_t> shape;
  std::int64_t block = 0;
  std::int64_t nested_block = 0;  // 0: scales are floats
  float offset = 0.0F;
};

class TableWeight final : public RowDecoder {
 public:
  TableWeight(std::string name, BlockState state, std::string what, std::vector<Part> parts)
      : RowDecoder(std::move(name), state.shape, std::move(what), std::move(parts)), state_(std::move(state)) {}

  void decode(std::int64_t row_begin, std::int64_t count, std::span<float> target) const override {
    const std::int64_t begin = row_begin * columns();
    const std::int64_t end = begin + count * columns();
    for (std::int64_t i = begin; i < end;) {
      const float scale = scale_of(i / state_.block);
      const std::int64_t block_end = std::min(end, (i / state_.block + 1) * state_.block);
      for (; i < block_end; ++i) {
        const auto byte = std::to_integer<std::uint32_t>(part(0).bytes[static_cast<std::size_t>(i / 2)]);
        const std::uint32_t index = i % 2 == 0 ? byte >> 4U : byte & 0xFU;
        target[static_cast<std::size_t>(i - begin)] = float_at(part(1), index) * scale;
      }
    }
  }

 private:
  float scale_of(std::int64_t block) const {
    if (state_.nested_block == 0) {
      return float_at(part(2), block);
    }
    const auto index = element_at<std::uint8_t>(part(2), block);
    return float_at(part(3), index) * float_at(part(4), block / state_.nested_block) + state_.offset;
  }

  BlockState state_;
};

class ByteWeight final : public RowDecoder {
 public:
  ByteWeight(const TensorView& values, const TensorView& magnitudes)
      : RowDecoder(values.name, values.shape, "bitsandbytes INT8 per channel",
                   {{.view = values, .layout = RowLayout::kConsecutive},
                    {.view = magnitudes, .layout = RowLayout::kConsecutive}}) {}

  void decode(std::int64_t row_begin, std::int64_t count, std::span<float> target) const override {
    constexpr float kUnit = 1.0F / 127.0F;
    for (std::int64_t i = 0; i < count; ++i) {
      const auto magnitude = element_at<float>(part(1), row_begin + i);
      for (std::int64_t j = 0; j < columns(); ++j) {
        const auto element = static_cast<float>(element_at<std::int8_t>(part(0), (row_begin + i) * columns() + j));
        target[static_cast<std::size_t>(i * columns() + j)] = element * magnitude * kUnit;
      }
    }
  }
};

[[noreturn]] void fail_state(const TensorView& view, std::string_view key) {
  fail_tensor(view, "has no '" + std::string(key) + "' that fits its weight");
}

std::int64_t block_size(const TensorView& view, const nlohmann::json& document, const char* key) {
  const auto found = document.find(key);
  if (found == document.end() || !found->is_number_unsigned() || found->get<std::uint64_t>() < 1 ||
      found->get<std::uint64_t>() > (1U << 20U)) {
    fail_state(view, key);
  }
  return found->get<std::int64_t>();
}

// `view` holds JSON as bytes.
BlockState read_state(const TensorView& view, bool nested) {
  const std::string_view text(reinterpret_cast<const char*>(view.bytes.data()), view.bytes.size());
  const nlohmann::json document = nlohmann::json::parse(text, nullptr, false);
  view.check();
  if (!document.is_object()) {
    fail_tensor(view, "is not a JSON object");
  }
  BlockState state;
  const auto shape = document.find("shape");
  if (shape == document.end() || !shape->is_array() || shape->size() != 2) {
    fail_state(view, "shape");
  }
  for (const nlohmann::json& size : *shape) {
    if (!size.is_number_unsigned() || size.get<std::uint64_t>() < 1 || size.get<std::uint64_t>() > (1ULL << 31U)) {
      fail_state(view, "shape");
    }
    state.shape.push_back(size.get<std::int64_t>());
  }
  state.block = block_size(view, document, "blocksize");
  if (nested) {
    state.nested_block = block_size(view, document, "nested_blocksize");
    const auto offset = document.find("nested_offset");
    if (offset == document.end() || !offset->is_number() || !std::isfinite(offset->get<double>())) {
      fail_state(view, "nested_offset");
    }
    state.offset = static_cast<float>(offset->get<double>());
  }
  return state;
}

void require_elements(const TensorView& view, std::int64_t count) {
  if (view.elements() != count) {
    fail_tensor(view,
                "has " + std::to_string(view.elements()) + " elements, its weight needs " + std::to_string(count));
  }
}

std::int64_t read_bytes(Checkpoint& checkpoint) {
  std::int64_t count = 0;
  for (const std::string& prefix : prefixes_of(checkpoint, ".SCB")) {
    const LayerTensors layer(checkpoint, prefix);
    const TensorView& values = layer.require(".weight", {DType::kI8});
    const TensorView& magnitudes = layer.require(".SCB", {DType::kF32});
    if (values.shape.size() != 2) {
      fail_tensor(values, "has the shape " + shape_string(values) + ", not two dimensions");
    }
    require_elements(magnitudes, values.shape[0]);
    if (layer.find(".weight_format") != nullptr) {
      const TensorView& format = layer.require(".weight_format", {DType::kU8});
      require_elements(format, 1);
      if (element_at<std::uint8_t>(format, 0) != 0) {
        throw Error(ErrorCode::kUnsupported, format.where(),
                    "says that the weight is in an order of one kind of GPU; rows one behind the other are read",
                    "save it again with a newer bitsandbytes");
      }
    }
    checkpoint.replace(layer.present({".weight", ".SCB", ".weight_format"}),
                       std::make_unique<const ByteWeight>(TensorView(values), TensorView(magnitudes)));
    ++count;
  }
  return count;
}

}  // namespace

std::int64_t read_bitsandbytes(Checkpoint& checkpoint, const PrequantizedScheme& /*scheme*/) {
  std::int64_t count = read_bytes(checkpoint);
  for (const std::string type : {"nf4", "fp4"}) {
    const std::string state_name = ".quant_state.bitsandbytes__" + type;
    for (const std::string& name : prefixes_of(checkpoint, state_name)) {
      const LayerTensors layer(checkpoint, name);
      const TensorView& values = layer.require("", {DType::kU8});
      const TensorView& scales = layer.require(".absmax", {DType::kU8, DType::kF32});
      const TensorView& table = layer.require(".quant_map", {DType::kF32});
      const bool nested = scales.dtype == DType::kU8;
      BlockState state = read_state(layer.require(state_name, {DType::kU8}), nested);
      const std::int64_t elements = state.shape[0] * state.shape[1];
      const std::int64_t blocks = (elements + state.block - 1) / state.block;
      require_elements(values, (elements + 1) / 2);
      require_elements(table, 16);
      require_elements(scales, blocks);
      // Rows of an odd length begin within a byte.
      const RowLayout layout = state.shape[1] % 2 == 0 ? RowLayout::kConsecutive : RowLayout::kTable;
      std::vector<RowDecoder::Part> parts = {{.view = values, .layout = layout},
                                             {.view = table, .layout = RowLayout::kTable},
                                             {.view = scales, .layout = RowLayout::kTable}};
      if (nested) {
        const TensorView& nested_table = layer.require(".nested_quant_map", {DType::kF32});
        const TensorView& nested_scales = layer.require(".nested_absmax", {DType::kF32});
        require_elements(nested_table, 256);
        require_elements(nested_scales, (blocks + state.nested_block - 1) / state.nested_block);
        parts.push_back({.view = nested_table, .layout = RowLayout::kTable});
        parts.push_back({.view = nested_scales, .layout = RowLayout::kTable});
      }
      const std::string what = "bitsandbytes " + std::string(type == "nf4" ? "NF4" : "FP4") + " in blocks of " +
                               std::to_string(state.block) + (nested ? ", its scales quantized" : "");
      auto weight = std::make_unique<const TableWeight>(name, std::move(state), what, std::move(parts));
      checkpoint.replace(
          layer.present({"", ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", state_name}),
          std::move(weight));
      ++count;
    }
  }
  return count;
}

}  // namespace diffulex_edge
