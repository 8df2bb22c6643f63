#include "backends/coreml/mil_operations.h"

#include <utility>

namespace diffulex_edge::coreml {

std::string_view name_of(MilDtype dtype) { return dtype == MilDtype::kFloat16 ? "fp16" : "fp32"; }

Id MilOperations::unary(std::string_view operation, Id x, std::string_view name) {
  return function_.add(operation, {{"x", {x}}}, function_.type(x), name);
}

Id MilOperations::binary(std::string_view operation, Id x, Id y, MilType type, std::string_view name) {
  return function_.add(operation, {{"x", {x}}, {"y", {y}}}, std::move(type), name);
}

Id MilOperations::clip(Id x, float low, float high, std::string_view name) {
  const MilType type = function_.type(x);
  return function_.add("clip",
                       {{"x", {x}},
                        {"alpha", {function_.constant(float_literal(type.dtype, low))}},
                        {"beta", {function_.constant(float_literal(type.dtype, high))}}},
                       type, name);
}

Id MilOperations::rsqrt(Id x, std::string_view name) {
  return function_.add("rsqrt", {{"x", {x}}, {"epsilon", {scalar(0.0F)}}}, function_.type(x), name);
}

Id MilOperations::block_of(Id positions, std::int64_t block_length) {
  const MilType type = function_.type(positions);
  const Id half = function_.constant(float_literal(type.dtype, 0.5F));
  const Id middle = binary("add", positions, half, type);
  const Id length = function_.constant(float_literal(type.dtype, static_cast<float>(block_length)));
  return unary("floor", binary("real_div", middle, length, type), "block_of_position");
}

Id MilOperations::reduce(std::string_view operation, Id x, std::string_view name) {
  MilType type = function_.type(x);
  type.shape.back() = {.value = 1};
  return function_.add(operation, {{"x", {x}}, {"axes", {ints({-1})}}, {"keep_dims", {boolean(true)}}}, type, name);
}

Id MilOperations::softmax(Id x, std::string_view name) {
  return function_.add("softmax", {{"x", {x}}, {"axis", {integer(-1)}}}, function_.type(x), name);
}

Id MilOperations::matmul(Id x, Id y, bool transpose_y, MilType type, std::string_view name) {
  return function_.add(
      "matmul", {{"x", {x}}, {"y", {y}}, {"transpose_x", {boolean(false)}}, {"transpose_y", {boolean(transpose_y)}}},
      std::move(type), name);
}

Id MilOperations::reshape(Id x, const Shape& target, std::string_view name) {
  std::vector<std::int32_t> sizes;
  for (const Dim& dim : target) {
    sizes.push_back(dim.is_sequence ? -1 : static_cast<std::int32_t>(dim.value));  // -1 follows from the others
  }
  return function_.add("reshape", {{"x", {x}}, {"shape", {ints(std::move(sizes))}}},
                       {.dtype = function_.type(x).dtype, .shape = target}, name);
}

Id MilOperations::transpose(Id x, const std::vector<std::int32_t>& permutation, std::string_view name) {
  Shape target;
  for (const std::int32_t axis : permutation) {
    target.push_back(shape(x)[static_cast<std::size_t>(axis)]);
  }
  return function_.add("transpose", {{"x", {x}}, {"perm", {ints(permutation)}}},
                       {.dtype = function_.type(x).dtype, .shape = std::move(target)}, name);
}

Id MilOperations::expand_dims(Id x, std::int32_t axis) {
  Shape target = shape(x);
  target.insert(target.begin() + axis, Dim{.value = 1});
  return function_.add("expand_dims", {{"x", {x}}, {"axes", {ints({axis})}}},
                       {.dtype = function_.type(x).dtype, .shape = std::move(target)});
}

Id MilOperations::slice(Id x, std::size_t axis, std::int64_t begin, std::int64_t end, std::string_view name) {
  MilType type = function_.type(x);
  const std::size_t rank = type.shape.size();
  type.shape[axis] = {.value = end - begin};
  std::vector<std::int32_t> begins(rank, 0);
  std::vector<std::int32_t> ends(rank, 0);
  std::vector<bool> whole_axis(rank, true);
  begins[axis] = static_cast<std::int32_t>(begin);
  ends[axis] = static_cast<std::int32_t>(end);
  whole_axis[axis] = false;
  const Id mask = function_.constant(bools_literal(whole_axis));
  return function_.add(
      "slice_by_index",
      {{"x", {x}}, {"begin", {ints(begins)}}, {"end", {ints(ends)}}, {"begin_mask", {mask}}, {"end_mask", {mask}}},
      type, name);
}

Id MilOperations::concat(std::vector<Id> values, std::int32_t axis, MilType type, std::string_view name) {
  return function_.add("concat",
                       {{"values", std::move(values)}, {"axis", {integer(axis)}}, {"interleave", {boolean(false)}}},
                       std::move(type), name);
}

Id MilOperations::cast(Id x, MilDtype dtype, std::string_view name) {
  if (function_.type(x).dtype == dtype) {
    return x;
  }
  MilType type = function_.type(x);
  type.dtype = dtype;
  return function_.add("cast", {{"x", {x}}, {"dtype", {text(std::string(name_of(dtype)))}}}, type, name);
}

}  // namespace diffulex_edge::coreml
