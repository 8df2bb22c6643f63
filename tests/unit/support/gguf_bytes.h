// GGUF files for tests, well-formed or not.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace diffulex_edge::testing {

template <typename T>
std::string raw(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

inline std::string gguf_text(const std::string& text) { return raw<std::uint64_t>(text.size()) + text; }

// A key with its value, encoded: the type's number and the bytes.
inline std::string gguf_key(const std::string& key, std::uint32_t type, const std::string& value) {
  return gguf_text(key) + raw(type) + value;
}

inline std::string gguf_array(std::uint32_t type, std::uint64_t count, const std::string& elements) {
  return raw(type) + raw(count) + elements;
}

struct GgufEntry {
  std::string name;
  std::vector<std::uint64_t> sizes;  // in the file's order: columns first
  std::uint32_t type = 0;
  std::uint64_t offset = 0;
};

inline std::string gguf_file(const std::vector<std::string>& keys, const std::vector<GgufEntry>& tensors,
                             const std::string& data) {
  std::string file =
      "GGUF" + raw<std::uint32_t>(3) + raw<std::uint64_t>(tensors.size()) + raw<std::uint64_t>(keys.size());
  for (const std::string& key : keys) {
    file += key;
  }
  for (const GgufEntry& tensor : tensors) {
    file += gguf_text(tensor.name) + raw(static_cast<std::uint32_t>(tensor.sizes.size()));
    for (const std::uint64_t size : tensor.sizes) {
      file += raw(size);
    }
    file += raw(tensor.type) + raw(tensor.offset);
  }
  file.resize((file.size() + 31) / 32 * 32);
  return file + data;
}

}  // namespace diffulex_edge::testing
