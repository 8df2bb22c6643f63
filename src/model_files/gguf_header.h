// The header of a GGUF file that is about to be written: keys in the order in which they are added, and where the
// tensors will lie. Format: as model_files/gguf_file.h has it; version 3, little-endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model_files/gguf_file.h"

namespace diffulex_edge {

struct GgufTensorToWrite {
  std::string name;
  std::vector<std::int64_t> shape;  // rows first
  std::uint32_t type = 0;           // of ggml
  std::int64_t bytes = 0;
  std::int64_t offset = 0;  // in the file, set by GgufHeader::lay_out
};

class GgufHeader {
 public:
  void add_text(std::string_view key, std::string_view value);
  void add_integer(std::string_view key, std::uint32_t value);
  void add_number(std::string_view key, float value);
  void add_boolean(std::string_view key, bool value);
  void add_texts(std::string_view key, std::span<const std::string> values);
  void add_integers(std::string_view key, std::span<const std::int32_t> values);
  void add_numbers(std::string_view key, std::span<const float> values);

  // All keys of another header.
  void append(const GgufHeader& other);
  // As another file has it.
  void add_value(std::string_view key, const GgufValue& value);

  // Sets the tensors' offsets in their order, and returns the file's first bytes. `file_bytes` becomes the size of the
  // whole file.
  std::string lay_out(std::span<GgufTensorToWrite> tensors, std::int64_t& file_bytes) const;

 private:
  void begin(std::string_view key, std::uint32_t type);
  void begin_array(std::string_view key, std::uint32_t type, std::size_t count);

  std::string keys_;
  std::uint64_t count_ = 0;
};

}  // namespace diffulex_edge
