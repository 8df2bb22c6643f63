#include "backends/executorch/program_artefact.h"

#include <span>
#include <utility>
#include <vector>

#include "backends/executorch/program_reader.h"
#include "backends/package_contents.h"
#include "core/mapped_file.h"
#include "core/sha256.h"

namespace diffulex_edge::executorch {
namespace {

Inspection inspect_program(const std::filesystem::path& path, const InspectOptions& options,
                           const RunControl& control) {
  const MappedFile file(path);
  ProgramContents contents = read_program(file.bytes(), file.path().string());
  Inspection inspection{.kind = "executorch_program",
                        .path = file.path(),
                        .file_bytes = static_cast<std::int64_t>(file.bytes().size()),
                        .methods = std::move(contents.methods),
                        .metadata = std::move(contents.metadata),
                        .tensors = std::move(contents.weights)};
  if (options.hashes) {
    std::vector<std::span<const std::byte>> bytes;
    for (const InspectedTensor& tensor : inspection.tensors) {
      bytes.push_back(
          file.bytes().subspan(static_cast<std::size_t>(tensor.offset), static_cast<std::size_t>(tensor.bytes)));
    }
    add_hashes(inspection.tensors, bytes, control);
    inspection.sha256 = sha256_hex(file.bytes());
  }
  file.check();
  return inspection;
}

}  // namespace

ArtefactReader program_artefact() {
  return {.what = "an ExecuTorch program (.pte)",
          .match =
              [](const std::filesystem::path& path) {
                return is_program(MappedFile(path).bytes()) ? ArtefactReader::Match::kCertain
                                                            : ArtefactReader::Match::kNo;
              },
          .inspect = inspect_program};
}

}  // namespace diffulex_edge::executorch
