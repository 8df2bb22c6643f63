// The header of a safetensors file that is about to be written.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "diffulex_edge/dtype.h"

namespace diffulex_edge {

struct TensorToWrite {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  std::int64_t offset = 0;  // in the file, set by lay_out_safetensors

  std::int64_t bytes() const;
};

// Orders the tensors as the format's own library does (wide types first, so that all data are aligned; then by name),
// sets their offsets, and returns the file's first bytes. `file_bytes` becomes the size of the whole file.
std::string lay_out_safetensors(std::vector<TensorToWrite>& tensors, std::int64_t& file_bytes);

}  // namespace diffulex_edge
