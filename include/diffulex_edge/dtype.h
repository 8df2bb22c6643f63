// Element types of checkpoint tensors and graph values, and symbolic shapes.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace diffulex_edge {

// The element types that a safetensors file may hold. Graph values use only F32, F16, I32 and I64.
enum class DType { kBool, kU8, kI8, kF8E5M2, kF8E4M3, kU16, kI16, kF16, kBF16, kU32, kI32, kF32, kU64, kI64, kF64 };

std::size_t byte_size(DType dtype);
// The safetensors spelling, such as "BF16".
std::string_view to_string(DType dtype);
std::optional<DType> dtype_from_string(std::string_view name);

// One dimension of a graph value. A sequence dimension varies at run time from 1 to `value`; all sequence dimensions of
// a graph have the same length at any one time.
struct Dim {
  std::int64_t value = 0;
  bool is_sequence = false;

  friend bool operator==(const Dim&, const Dim&) = default;
};

using Shape = std::vector<Dim>;

Shape static_shape(std::span<const std::int64_t> sizes);
// The sizes with `length` for every sequence dimension.
std::vector<std::int64_t> sizes_at(const Shape& shape, std::int64_t length);
// "[1, seq<=256, 96]"
std::string to_string(const Shape& shape);
// Product of the upper bounds. Throws Error{kBadFile} where the product leaves int64.
std::int64_t element_count(const Shape& shape);

// a * b and a + b for sizes and offsets that come from files; nullopt on overflow or where an operand is negative.
std::optional<std::int64_t> checked_multiply(std::int64_t a, std::int64_t b);
std::optional<std::int64_t> checked_add(std::int64_t a, std::int64_t b);

}  // namespace diffulex_edge
