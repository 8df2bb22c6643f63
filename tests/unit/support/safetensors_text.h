// Safetensors files for tests, well-formed or not.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "checkpoint/safetensors_writer.h"

namespace diffulex_edge::testing {

// Any header text before any data, with the true header length.
inline std::string safetensors_bytes(const std::string& header, const std::string& data) {
  const std::uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + header + data;
}

struct TestTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  std::string bytes;
};

template <typename T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

// A well-formed file.
inline std::string safetensors_file(const std::vector<TestTensor>& tensors) {
  std::vector<TensorToWrite> layout;
  for (const TestTensor& tensor : tensors) {
    layout.push_back({.name = tensor.name, .dtype = tensor.dtype, .shape = tensor.shape});
  }
  std::int64_t size = 0;
  std::string file = lay_out_safetensors(layout, size);
  file.resize(static_cast<std::size_t>(size));
  for (const TestTensor& tensor : tensors) {
    for (const TensorToWrite& placed : layout) {
      if (placed.name == tensor.name) {
        std::memcpy(file.data() + placed.offset, tensor.bytes.data(), tensor.bytes.size());
      }
    }
  }
  return file;
}

}  // namespace diffulex_edge::testing
