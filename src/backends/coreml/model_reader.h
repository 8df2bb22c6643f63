// Reads a Core ML model's message (model.mlmodel): what it describes, its operations, and its weights' places.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
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

struct ReadModel {
  InspectedModel model;
  std::vector<WeightReference> weights;
};

// `name` is the file's, for messages. Throws Error{kBadFile}.
ReadModel read_model(std::span<const std::byte> message, const std::string& name);

}  // namespace diffulex_edge::coreml
