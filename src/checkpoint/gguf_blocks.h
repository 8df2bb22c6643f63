// The block formats of ggml: how many elements share a scale, and what they stand for.
// Definitions: ggml's reference implementation (ggml-quants.c), whose float32 arithmetic this follows step by step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "diffulex_edge/dtype.h"

namespace diffulex_edge {

struct GgufBlockType {
  std::uint32_t type = 0;  // ggml's number
  std::string_view name;   // "Q4_K"
  std::int64_t elements = 1;
  std::int64_t bytes = 0;
  // Decodes one block to `elements` floats; nullptr for formats that are known and not read.
  void (*decode)(const std::byte* block, float* target) = nullptr;
  // For elements that a checkpoint has as they are.
  std::optional<DType> plain = std::nullopt;
};

// nullptr for a number that ggml does not have.
const GgufBlockType* find_gguf_type(std::uint32_t type);

}  // namespace diffulex_edge
