// Reads what a Core ML model's message says of the model: inputs, outputs, metadata.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "diffulex_edge/inspection.h"

namespace diffulex_edge::coreml {

struct ModelDescription {
  InspectedFeatures features;
  std::string text;
  std::map<std::string, std::string> metadata;         // user-defined
  std::map<std::string, InspectedFeatures> functions;  // where each is described by itself
};

// `file` is for messages. Throws Error{kBadFile}, and protozero::exception where it is no such message.
ModelDescription read_description(std::string_view message, const std::string& file);

}  // namespace diffulex_edge::coreml
