// Reads folders that the QNN backend wrote.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "core/mapped_file.h"
#include "diffulex_edge/inspection.h"

namespace diffulex_edge::qnn {

struct PackageContents {
  std::vector<InspectedModel> models;  // ONNX models in order of execution, then those around context binaries
  std::vector<InspectedFile> files;
  std::vector<InspectedTensor> weights;           // without hashes
  std::vector<std::span<const std::byte>> bytes;  // of each weight
  std::vector<std::shared_ptr<const MappedFile>> mapped;
};

// Throws Error{kBadFile}.
PackageContents read_package(const std::filesystem::path& folder);

}  // namespace diffulex_edge::qnn
