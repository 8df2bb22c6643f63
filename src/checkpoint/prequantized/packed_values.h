// Access to elements of the tensors that quantized weights are stored in, in any alignment.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/row_decoder.h"
#include "diffulex_edge/checkpoint.h"

namespace diffulex_edge {

template <typename T>
T element_at(const TensorView& view, std::int64_t index) {
  T value{};
  std::memcpy(&value, view.bytes.data() + static_cast<std::size_t>(index) * sizeof(T), sizeof(T));
  return value;
}

// Elements of type F32, F16, BF16, F8_E4M3, F8_E5M2, I8 or U8 as float32.
float float_at(const TensorView& view, std::int64_t index);
bool is_float(DType dtype);

// `bits` divide 32.
inline std::uint32_t unpack(std::uint32_t word, int index, int bits) {
  return (word >> static_cast<unsigned>(index * bits)) & ((1U << static_cast<unsigned>(bits)) - 1U);
}

// Value `index` of a stream of values of `bits` bits (1 to 8), the first in the lowest bits of the first word. A value
// may lie across two words.
inline std::uint32_t unpack_stream(std::span<const std::uint32_t> words, std::int64_t index, int bits) {
  const std::int64_t bit = index * bits;
  const auto word = static_cast<std::size_t>(bit / 32);
  std::uint64_t window = words[word];
  if (bit % 32 + bits > 32) {
    window |= std::uint64_t{words[word + 1]} << 32U;
  }
  return static_cast<std::uint32_t>(window >> static_cast<unsigned>(bit % 32)) &
         ((1U << static_cast<unsigned>(bits)) - 1U);
}

// "[128, 64]"
std::string shape_string(const TensorView& view);

// Throws Error{kBadFile} naming the tensor.
[[noreturn]] void fail_tensor(const TensorView& view, const std::string& what);

// The tensors of one layer by their last name: PREFIX.qweight, PREFIX.scales.
class LayerTensors {
 public:
  LayerTensors(const Checkpoint& checkpoint, std::string prefix)
      : checkpoint_(checkpoint), prefix_(std::move(prefix)) {}

  const std::string& prefix() const { return prefix_; }
  const TensorView* find(std::string_view name) const { return checkpoint_.find(prefix_ + std::string(name)); }
  // Throws Error{kBadFile} where it is absent or of another type.
  const TensorView& require(std::string_view name, std::initializer_list<DType> types) const;
  // Names of those that are there.
  std::vector<std::string> present(std::initializer_list<std::string_view> names) const;

 private:
  const Checkpoint& checkpoint_;
  std::string prefix_;
};

// What GPTQ and AWQ store of a layer: integers, zero points and scales. The views outlive the names' places in the
// checkpoint. Throws as `require` does.
struct GroupedTensors {
  explicit GroupedTensors(const LayerTensors& layer);

  std::vector<RowDecoder::Part> parts(RowLayout integers, RowLayout groups) const;

  TensorView qweight;
  TensorView qzeros;
  TensorView scales;
};

// Prefixes of all tensors whose name ends so: "model.layers.0.mlp.up_proj" of "model.layers.0.mlp.up_proj.qweight".
std::vector<std::string> prefixes_of(const Checkpoint& checkpoint, std::string_view ending);

// Throws unless the tensor has this shape.
void require_shape(const TensorView& view, const std::vector<std::int64_t>& shape);

}  // namespace diffulex_edge
