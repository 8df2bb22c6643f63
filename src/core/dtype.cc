#include "diffulex_edge/dtype.h"

#include <array>
#include <utility>

#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

struct Spelling {
  DType dtype;
  std::string_view name;
  std::size_t bytes;
};

// https://github.com/huggingface/safetensors: the format's dtype names.
constexpr std::array kSpellings = {
    Spelling{DType::kBool, "BOOL", 1},      Spelling{DType::kU8, "U8", 1},          Spelling{DType::kI8, "I8", 1},
    Spelling{DType::kF8E5M2, "F8_E5M2", 1}, Spelling{DType::kF8E4M3, "F8_E4M3", 1}, Spelling{DType::kU16, "U16", 2},
    Spelling{DType::kI16, "I16", 2},        Spelling{DType::kF16, "F16", 2},        Spelling{DType::kBF16, "BF16", 2},
    Spelling{DType::kU32, "U32", 4},        Spelling{DType::kI32, "I32", 4},        Spelling{DType::kF32, "F32", 4},
    Spelling{DType::kU64, "U64", 8},        Spelling{DType::kI64, "I64", 8},        Spelling{DType::kF64, "F64", 8},
};

const Spelling& spelling(DType dtype) {
  for (const Spelling& candidate : kSpellings) {
    if (candidate.dtype == dtype) {
      return candidate;
    }
  }
  throw Error(ErrorCode::kInternal, {}, "unknown dtype");
}

}  // namespace

std::size_t byte_size(DType dtype) { return spelling(dtype).bytes; }

std::string_view to_string(DType dtype) { return spelling(dtype).name; }

std::optional<DType> dtype_from_string(std::string_view name) {
  for (const Spelling& candidate : kSpellings) {
    if (candidate.name == name) {
      return candidate.dtype;
    }
  }
  return std::nullopt;
}

Shape static_shape(std::span<const std::int64_t> sizes) {
  Shape shape;
  for (const std::int64_t size : sizes) {
    shape.push_back({.value = size});
  }
  return shape;
}

std::vector<std::int64_t> sizes_at(const Shape& shape, std::int64_t length) {
  std::vector<std::int64_t> sizes;
  for (const Dim& dim : shape) {
    sizes.push_back(dim.is_sequence ? length : dim.value);
  }
  return sizes;
}

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (const Dim& dim : shape) {
    text += text.size() > 1 ? ", " : "";
    text += dim.is_sequence ? "seq<=" + std::to_string(dim.value) : std::to_string(dim.value);
  }
  return text + "]";
}

std::int64_t element_count(const Shape& shape) {
  std::int64_t count = 1;
  for (const Dim& dim : shape) {
    const auto product = checked_multiply(count, dim.value);
    if (!product) {
      throw Error(ErrorCode::kBadFile, to_string(shape), "the number of elements does not fit in 63 bits");
    }
    count = *product;
  }
  return count;
}

std::optional<std::int64_t> checked_multiply(std::int64_t a, std::int64_t b) {
  std::int64_t result = 0;
  if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &result)) {
    return std::nullopt;
  }
  return result;
}

std::optional<std::int64_t> checked_add(std::int64_t a, std::int64_t b) {
  std::int64_t result = 0;
  if (a < 0 || b < 0 || __builtin_add_overflow(a, b, &result)) {
    return std::nullopt;
  }
  return result;
}

}  // namespace diffulex_edge
