// What readers of artefacts find in them, and how it becomes an Inspection.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/mapped_file.h"
#include "diffulex_edge/inspection.h"
#include "diffulex_edge/progress.h"

namespace diffulex_edge {

struct PackageContents {
  // One for each Core ML package; ONNX models in order of execution, then those around context binaries.
  std::vector<InspectedModel> models;
  std::vector<InspectedFile> files;
  std::vector<InspectedTensor> weights;           // without hashes
  std::vector<std::span<const std::byte>> bytes;  // of each weight
  std::vector<std::shared_ptr<const MappedFile>> mapped;
};

// Of a folder, and with hashes where they are wanted. `kind` is Inspection::kind.
Inspection inspection_of(std::string kind, const std::filesystem::path& folder, PackageContents contents,
                         const InspectOptions& options, const RunControl& control);

// SHA-256 of the tensors' bytes, which are in the order of `tensors`, on all cores. Bytes that several tensors share
// are read once.
void add_hashes(std::vector<InspectedTensor>& tensors, const std::vector<std::span<const std::byte>>& bytes,
                const RunControl& control);

}  // namespace diffulex_edge
