// Reads untrusted ONNX models, as far as an inspection shows them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "diffulex_edge/inspection.h"

namespace diffulex_edge::qnn {

// An initializer: its bytes are in the message or in a file of external data.
struct ReadTensor {
  InspectedTensor tensor;
  std::string_view raw;  // in the message
  std::string location;  // else the file's name
  std::int64_t offset = 0;
};

struct ReadModel {
  InspectedModel model;
  std::vector<ReadTensor> tensors;
};

// `file` is for messages; views point into `message`. Throws Error{kBadFile} where it is no valid ModelProto or where a
// tensor's bytes do not fit its type and shape.
ReadModel read_model(std::string_view message, const std::string& file);

}  // namespace diffulex_edge::qnn
