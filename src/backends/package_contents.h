// What readers of artefacts that are folders find in them.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "core/mapped_file.h"
#include "diffulex_edge/inspection.h"

namespace diffulex_edge {

struct PackageContents {
  // One for each Core ML package; ONNX models in order of execution, then those around context binaries.
  std::vector<InspectedModel> models;
  std::vector<InspectedFile> files;
  std::vector<InspectedTensor> weights;           // without hashes
  std::vector<std::span<const std::byte>> bytes;  // of each weight
  std::vector<std::shared_ptr<const MappedFile>> mapped;
};

}  // namespace diffulex_edge
