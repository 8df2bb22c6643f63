// Reads a Core ML model's message (model.mlmodel).
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "backends/coreml/mil_reader.h"
#include "diffulex_edge/inspection.h"

namespace diffulex_edge::coreml {

struct ReadModel {
  InspectedModel model;
  std::vector<WeightReference> weights;
};

// `name` is the file's, for messages. Throws Error{kBadFile}.
ReadModel read_model(std::span<const std::byte> message, const std::string& name);

}  // namespace diffulex_edge::coreml
