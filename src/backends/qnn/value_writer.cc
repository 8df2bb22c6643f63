#include "backends/qnn/value_writer.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include "quant/affine_scale.h"
#include "quant/kernels/kernels.h"
#include "quant/static_graph.h"

namespace diffulex_edge::qnn {
namespace {

constexpr float kLargestHalf = 65504.0F;
constexpr float kLargestFloat = std::numeric_limits<float>::max();
// Of what is stored in integers: rounding may make it a little larger.
constexpr float kLargestRounded = 1e38F;

// NumPy's rule: sizes count from the end.
Sizes broadcast(const Sizes& a, const Sizes& b) {
  Sizes result = a.size() < b.size() ? b : a;
  const Sizes& other = a.size() < b.size() ? a : b;
  const std::size_t shift = result.size() - other.size();
  for (std::size_t i = 0; i < other.size(); ++i) {
    std::int64_t& size = result[shift + i];
    size = size == 1 ? other[i] : size;
  }
  return result;
}

std::vector<float> limited(std::span<const float> values, float limit) {
  std::vector<float> result;
  for (const float value : values) {
    result.push_back(std::clamp(value, -limit, limit));
  }
  return result;
}

}  // namespace

Encoding choose_encoding(const ActivationRange& range, int bits) {
  const AffineScale scale = affine_scale(range, bits);
  return {.bits = bits, .scale = scale.scale, .zero_point = scale.zero_point + (1 << (bits - 1))};
}

Value ValueWriter::finish(Id raw, const ActivationRange& range) {
  if (!bits_ || graph_.type(raw).dtype == OnnxDtype::kInt32) {
    return {.id = raw, .range = {}};
  }
  const Encoding encoding = choose_encoding(range, *bits_);
  const OnnxType type = graph_.type(raw);
  const std::string name = graph_.name(raw);
  encodings_.emplace(name, encoding);
  const Id quantized = graph_.add("QuantizeLinear", {raw, graph_.scalar(encoding.scale), zero_of(encoding)}, {},
                                  {.dtype = integer_dtype(), .sizes = type.sizes}, name + "_quantized");
  const Id value = dequantize(quantized, encoding, type, name + "_dequantized");
  stored_.emplace(value, quantized);
  return {.id = value, .range = range};
}

std::pair<Id, Value> ValueWriter::input(std::string name, Sizes sizes, const ActivationRange& range) {
  const OnnxType type = float_type(std::move(sizes));
  if (!bits_) {
    const Id tensor = graph_.input(std::move(name), type);
    return {tensor, {.id = tensor, .range = {}}};
  }
  const std::string value_name = name + "_dequantized";
  const Id tensor = graph_.input(std::move(name), {.dtype = integer_dtype(), .sizes = type.sizes});
  return {tensor, {.id = dequantize(tensor, choose_encoding(range, *bits_), type, value_name), .range = range}};
}

Id ValueWriter::cast(Id value) {
  const OnnxType type = graph_.type(value);
  if (type.dtype == arithmetic_) {
    return value;
  }
  return graph_.add("Cast", {value}, {{"to", static_cast<std::int64_t>(arithmetic_)}}, float_type(type.sizes));
}

Value ValueWriter::constant(std::span<const float> values, Sizes sizes, std::string_view name) {
  if (!bits_) {
    return {.id = floats(values, std::move(sizes), name), .range = {}};
  }
  const std::vector<float> finite = limited(values, kLargestRounded);
  const ActivationRange range = range_of(finite);
  const Encoding encoding = choose_encoding(range, *bits_);
  const float most = std::ldexp(1.0F, *bits_) - 1.0F;
  std::vector<std::uint32_t> rounded;
  for (const float value : finite) {
    const float q = std::nearbyint(value / encoding.scale) + static_cast<float>(encoding.zero_point);
    rounded.push_back(static_cast<std::uint32_t>(std::clamp(q, 0.0F, most)));
  }
  const Id stored = integers(rounded, sizes, std::string(name) + "_quantized");
  return {.id = dequantize(stored, encoding, float_type(std::move(sizes)), name), .range = range};
}

Id ValueWriter::floats(std::span<const float> values, Sizes sizes, std::string_view name) {
  const OnnxType type = float_type(std::move(sizes));
  const bool half = type.dtype == OnnxDtype::kFloat16;
  const std::vector<float> finite = limited(values, half ? kLargestHalf : kLargestFloat);
  std::vector<std::uint16_t> halves;
  std::span<const std::byte> bytes = std::as_bytes(std::span(finite));
  if (half) {
    halves.resize(finite.size());
    kernels::f32_to_f16(finite.data(), halves.data(), finite.size());
    bytes = std::as_bytes(std::span(halves));
  }
  return finite.size() == 1 ? graph_.constant(type, bytes, name)
                            : graph_.external(type, data_.add_computed(bytes), name);
}

Id ValueWriter::integers(const std::vector<std::uint32_t>& values, Sizes sizes, std::string_view name) {
  const OnnxType type{.dtype = integer_dtype(), .sizes = std::move(sizes)};
  std::vector<std::byte> bytes;
  for (const std::uint32_t value : values) {
    bytes.push_back(static_cast<std::byte>(value & 0xFFU));
    if (type.dtype == OnnxDtype::kUint16) {
      bytes.push_back(static_cast<std::byte>(value >> 8U));
    }
  }
  return type.sizes.empty() ? graph_.constant(type, bytes, name)
                            : graph_.external(type, data_.add_computed(bytes), name);
}

Id ValueWriter::dequantize(Id quantized, const Encoding& encoding, OnnxType type, std::string_view name) {
  return graph_.add("DequantizeLinear", {quantized, graph_.scalar(encoding.scale), zero_of(encoding)}, {},
                    std::move(type), name);
}

Value ValueWriter::reshape(const Value& x, const Sizes& target) {
  if (sizes(x.id) == target) {
    return x;
  }
  const auto [position, inserted] = reshaped_.emplace(std::pair(x.id, target), Value{});
  if (inserted) {
    position->second = finish(
        graph_.add("Reshape", {x.id, graph_.ints(target)}, {}, {.dtype = graph_.type(x.id).dtype, .sizes = target}),
        x.range);
  }
  return position->second;
}

Value ValueWriter::transpose(const Value& x, const Sizes& permutation) {
  OnnxType type{.dtype = graph_.type(x.id).dtype, .sizes = {}};
  for (const std::int64_t axis : permutation) {
    type.sizes.push_back(sizes(x.id)[static_cast<std::size_t>(axis)]);
  }
  return finish(graph_.add("Transpose", {x.id}, {{"perm", permutation}}, std::move(type)), x.range);
}

Value ValueWriter::slice(const Value& x, std::int64_t axis, std::int64_t begin, std::int64_t end) {
  OnnxType type = graph_.type(x.id);
  type.sizes[static_cast<std::size_t>(axis)] = end - begin;
  return finish(
      graph_.add("Slice", {x.id, graph_.ints({begin}), graph_.ints({end}), graph_.ints({axis})}, {}, std::move(type)),
      x.range);
}

Value ValueWriter::slice_last(const Value& x, std::int64_t begin, std::int64_t end) {
  return slice(x, static_cast<std::int64_t>(sizes(x.id).size()) - 1, begin, end);
}

Value ValueWriter::concat(std::vector<Value> values, std::int64_t axis) {
  ActivationRange range;
  for (const Value& value : values) {
    range.min = std::min(range.min, value.range.min);
    range.max = std::max(range.max, value.range.max);
  }
  std::vector<Id> ids;
  OnnxType type = graph_.type(values.front().id);
  std::int64_t& size = type.sizes[static_cast<std::size_t>(axis)];
  size = 0;
  for (Value& value : values) {
    size += sizes(value.id)[static_cast<std::size_t>(axis)];
    if (bits_ && value.range != range) {  // the compiler joins values of one encoding
      value = finish(value.id, range);
    }
    ids.push_back(value.id);
  }
  return finish(graph_.add("Concat", std::move(ids), {{"axis", axis}}, std::move(type)), range);
}

Value ValueWriter::gather(const Value& table, Id ids) {
  OnnxType type{.dtype = graph_.type(table.id).dtype, .sizes = sizes(ids)};
  type.sizes.insert(type.sizes.end(), sizes(table.id).begin() + 1, sizes(table.id).end());
  return finish(graph_.add("Gather", {table.id, ids}, {{"axis", std::int64_t{0}}}, std::move(type)), table.range);
}

Value ValueWriter::unary(std::string_view op, const Value& x, const ActivationRange& range,
                         OnnxGraph::Attributes attributes, std::string_view name) {
  return finish(graph_.add(op, {x.id}, std::move(attributes), graph_.type(x.id), name), range);
}

Value ValueWriter::binary(std::string_view op, const Value& x, const Value& y, const ActivationRange& range) {
  return finish(graph_.add(op, {x.id, y.id}, {}, float_type(broadcast(sizes(x.id), sizes(y.id)))), range);
}

Value ValueWriter::matmul(const Value& x, const Value& y, const ActivationRange& range) {
  const Sizes& a = sizes(x.id);
  const Sizes& b = sizes(y.id);
  Sizes target = broadcast({a.begin(), a.end() - 2}, {b.begin(), b.end() - 2});
  target.push_back(a[a.size() - 2]);
  target.push_back(b.back());
  return finish(graph_.add("MatMul", {x.id, y.id}, {}, float_type(std::move(target))), range);
}

}  // namespace diffulex_edge::qnn
