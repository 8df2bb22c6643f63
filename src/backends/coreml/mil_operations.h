// Operations of MIL as a lowering adds them to a function: constants are made, and types follow from the operands.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "backends/coreml/mil_program.h"

namespace diffulex_edge::coreml {

// "fp16" or "fp32".
std::string_view name_of(MilDtype dtype);

// What a masked score gets added: exp() of it is 0 beside any other score, and float16 holds it.
inline constexpr float kMasked = -1e4F;

class MilOperations {
 public:
  // Floating-point constants are of the type `arithmetic`.
  MilOperations(MilFunction& function, MilDtype arithmetic) : function_(function), arithmetic_(arithmetic) {}

  MilFunction& function() { return function_; }
  MilDtype arithmetic() const { return arithmetic_; }
  bool is_half() const { return arithmetic_ == MilDtype::kFloat16; }
  const Shape& shape(Id id) const { return function_.type(id).shape; }

  Id scalar(float value) { return function_.constant(float_literal(arithmetic_, value)); }
  Id ints(std::vector<std::int32_t> values) { return function_.constant(ints_literal(std::move(values))); }
  Id integer(std::int32_t value) { return function_.constant(int_literal(value)); }
  Id boolean(bool value) { return function_.constant(bool_literal(value)); }
  Id text(std::string value) { return function_.constant(string_literal(std::move(value))); }

  Id unary(std::string_view operation, Id x, std::string_view name = {});
  // Operands broadcast to `type`.
  Id binary(std::string_view operation, Id x, Id y, MilType type, std::string_view name = {});
  // In x's type.
  Id clip(Id x, float low, float high, std::string_view name = {});
  Id rsqrt(Id x, std::string_view name = {});
  // floor(position / block_length) of whole numbers in float32, by a division away from the integers.
  Id block_of(Id positions, std::int64_t block_length);
  // Over the last dimension, which stays with size 1.
  Id reduce(std::string_view operation, Id x, std::string_view name = {});
  // Over the last dimension.
  Id softmax(Id x, std::string_view name = {});
  Id matmul(Id x, Id y, bool transpose_y, MilType type, std::string_view name = {});

  // `target` has one unknown size at most.
  Id reshape(Id x, const Shape& target, std::string_view name = {});
  Id transpose(Id x, const std::vector<std::int32_t>& permutation, std::string_view name = {});
  Id expand_dims(Id x, std::int32_t axis);
  // x[begin:end] along `axis`.
  Id slice(Id x, std::size_t axis, std::int64_t begin, std::int64_t end, std::string_view name = {});
  Id concat(std::vector<Id> values, std::int32_t axis, MilType type, std::string_view name = {});
  Id cast(Id x, MilDtype dtype, std::string_view name = {});

 private:
  MilFunction& function_;
  MilDtype arithmetic_;
};

}  // namespace diffulex_edge::coreml
