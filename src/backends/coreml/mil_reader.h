// Reads ML Programs (MIL): operations, and the places of weights.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "diffulex_edge/inspection.h"

namespace diffulex_edge::coreml {

// A constant in a weight file.
struct WeightReference {
  InspectedTensor tensor;    // what the program says of it: name, type, shape, group size
  std::string file;          // as programs spell it: "@model_path/weights/weight.bin"
  std::uint64_t offset = 0;  // of its metadata
  std::uint32_t blob = 0;    // the type that the file has to give it
  std::uint64_t bits = 0;    // how many bits of data it has to have
};

// A program's functions; their weights are appended to `weights`. `file` is for messages. Throws Error{kBadFile}, and
// protozero::exception where it is no such message.
std::vector<InspectedFunction> read_program(std::string_view message, const std::string& file,
                                            std::vector<WeightReference>& weights);

}  // namespace diffulex_edge::coreml
