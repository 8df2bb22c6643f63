// Fields of untrusted flatbuffers, of which any may be absent, and numbers at a place in raw bytes.
#pragma once

#include <flatbuffers/flatbuffers.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

namespace diffulex_edge::flat {

// The number at `offset`, which the caller has seen to be within `bytes`; it may be unaligned.
template <typename T>
T load(std::span<const std::byte> bytes, std::size_t offset) {
  T value{};
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

// What is absent reads as empty.
inline std::string text(const flatbuffers::String* string) { return string == nullptr ? std::string() : string->str(); }

template <typename T>
std::vector<const T*> list(const flatbuffers::Vector<flatbuffers::Offset<T>>* vector) {
  return vector == nullptr ? std::vector<const T*>() : std::vector<const T*>(vector->begin(), vector->end());
}

// The verifier sees to the alignment of a vector's length, not of its elements.
template <typename T>
std::vector<std::int64_t> integers(const flatbuffers::Vector<T>* vector) {
  std::vector<std::int64_t> values;
  if (vector != nullptr) {
    const auto bytes = std::as_bytes(std::span(vector->Data(), vector->size() * sizeof(T)));
    for (std::size_t i = 0; i < vector->size(); ++i) {
      values.push_back(static_cast<std::int64_t>(load<T>(bytes, i * sizeof(T))));
    }
  }
  return values;
}

}  // namespace diffulex_edge::flat
