// Writes values into an ONNX graph: in floating point, or each through integers and back, as Qualcomm's compiler
// recognizes values that are integers.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "backends/qnn/data_store.h"
#include "backends/qnn/onnx_graph.h"
#include "diffulex_edge/activations.h"

namespace diffulex_edge::qnn {

// How a value is stored in integers: (q - zero_point) * scale, q unsigned.
struct Encoding {
  int bits = 16;
  float scale = 1.0F;
  std::int32_t zero_point = 0;

  friend auto operator<=>(const Encoding&, const Encoding&) = default;
};
// That covers `range` and holds 0 exactly.
Encoding choose_encoding(const ActivationRange& range, int bits);

using Id = OnnxGraph::Id;
using Sizes = std::vector<std::int64_t>;

// Of what a sigmoid or a softmax makes.
inline constexpr ActivationRange kShares = {.min = 0.0F, .max = 1.0F};

// A value of the ONNX graph. In mode static it comes from a DequantizeLinear with the encoding of `range`, unless it is
// of token ids.
struct Value {
  Id id = -1;
  ActivationRange range;
};

class ValueWriter {
 public:
  // `bits` in mode static, else nothing: floating point. Keeps the references.
  ValueWriter(OnnxGraph& graph, DataStore& data, std::map<std::string, Encoding>& encodings, OnnxDtype arithmetic,
              std::optional<int> bits)
      : graph_(graph), data_(data), encodings_(encodings), arithmetic_(arithmetic), bits_(bits) {}

  const Sizes& sizes(Id id) const { return graph_.type(id).sizes; }
  OnnxType float_type(Sizes sizes) const { return {.dtype = arithmetic_, .sizes = std::move(sizes)}; }

  // What an operator or input made; in mode static, with `range`.
  Value finish(Id raw, const ActivationRange& range);
  // An input of the model: integers in mode static, of the encoding of `range`; else in the arithmetic's type. Its
  // tensor and its value.
  std::pair<Id, Value> input(std::string name, Sizes sizes, const ActivationRange& range);
  // The tensor that holds what this writer finished: its integers in mode static.
  Id stored(const Value& value) const { return bits_ ? stored_.at(value.id) : value.id; }
  // Numbers in the arithmetic's type.
  Id cast(Id value);
  // Small data, in integers in mode static. NaN is not among it; infinities become the largest numbers.
  Value constant(std::span<const float> values, Sizes sizes, std::string_view name);
  // In the arithmetic's type; infinities as above.
  Id floats(std::span<const float> values, Sizes sizes, std::string_view name);

  // --- Operators that move values keep their range, and take ids as well.

  Value reshape(const Value& x, const Sizes& target);
  Value transpose(const Value& x, const Sizes& permutation);
  Value slice(const Value& x, std::int64_t axis, std::int64_t begin, std::int64_t end);
  Value slice_last(const Value& x, std::int64_t begin, std::int64_t end);
  // In the range that holds them all.
  Value concat(std::vector<Value> values, std::int64_t axis);
  // Rows of `table` [V, ...].
  Value gather(const Value& table, Id ids);

  // --- Operators that compute.

  Value unary(std::string_view op, const Value& x, const ActivationRange& range, OnnxGraph::Attributes attributes = {},
              std::string_view name = {});
  // With broadcasting, as ONNX has it from NumPy.
  Value binary(std::string_view op, const Value& x, const Value& y, const ActivationRange& range);
  Value matmul(const Value& x, const Value& y, const ActivationRange& range);

 private:
  OnnxDtype integer_dtype() const { return bits_.value_or(8) > 8 ? OnnxDtype::kUint16 : OnnxDtype::kUint8; }
  Id integers(const std::vector<std::uint32_t>& values, Sizes sizes, std::string_view name);
  Id dequantize(Id quantized, const Encoding& encoding, OnnxType type, std::string_view name);
  Id zero_of(const Encoding& encoding) {
    return integers({static_cast<std::uint32_t>(encoding.zero_point)}, {}, "zero");
  }

  OnnxGraph& graph_;
  DataStore& data_;
  std::map<std::string, Encoding>& encodings_;
  OnnxDtype arithmetic_;
  std::optional<int> bits_;
  std::map<std::pair<Id, Sizes>, Value> reshaped_;
  std::map<Id, Id> stored_;  // the integers of dequantized values
};

}  // namespace diffulex_edge::qnn
