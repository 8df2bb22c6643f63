// The JSON header of a safetensors file.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "diffulex_edge/dtype.h"

namespace diffulex_edge {

struct HeaderEntry {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  std::int64_t begin = 0;  // offsets in the data that follow the header, bytes
  std::int64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<HeaderEntry> entries;
  std::map<std::string, std::string> metadata;
};

// Parses without building a document, so that memory stays within a small multiple of `text`, whatever it holds.
// Throws Error{kBadFile}; `file` is named in it.
SafetensorsHeader parse_safetensors_header(std::string_view text, const std::string& file);

}  // namespace diffulex_edge
