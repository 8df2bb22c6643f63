// Looks into checkpoints and artefacts.

#include "diffulex_edge/inspection.h"

#include <span>
#include <utility>

#include "backends/executorch/program_reader.h"
#include "checkpoint/stored_weight.h"
#include "core/mapped_file.h"
#include "core/parallel.h"
#include "core/sha256.h"
#include "diffulex_edge/checkpoint.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;

// The tensors' bytes, in the order of Inspection::tensors, hashed on all cores.
void add_hashes(std::vector<InspectedTensor>& tensors, const std::vector<std::span<const std::byte>>& bytes,
                const RunControl& control) {
  parallel_for(tensors.size(), control, [&](std::size_t i, std::size_t) {
    tensors[i].sha256 = sha256_hex(bytes[i]);
    MappedFile::release(bytes[i]);
  });
}

InspectedTensor describe(const TensorView& view) {
  return {.name = view.name,
          .type = std::string(to_string(view.dtype)),
          .shape = view.shape,
          .bytes = static_cast<std::int64_t>(view.bytes.size()),
          .offset = view.bytes.data() - view.file->bytes().data(),
          .file = view.file->path().filename().string()};
}

Inspection inspect_checkpoint(const fs::path& path, const InspectOptions& options, const RunControl& control) {
  const Checkpoint checkpoint(path);
  std::error_code error;
  const bool is_folder = fs::is_directory(path, error);
  Inspection inspection{.kind = is_folder ? "checkpoint" : "safetensors", .path = path};
  inspection.file_bytes = checkpoint.total_bytes();
  if (is_folder) {
    inspection.config = read_model_config(path);
  }
  std::vector<std::span<const std::byte>> bytes;
  for (const auto& [name, view] : checkpoint.tensors()) {
    InspectedTensor tensor = describe(view);
    const TensorView* scale = checkpoint.find(name + "_scale");
    // Other programs' packed weights have scales of other types.
    if (view.dtype == DType::kU8 && scale != nullptr && (scale->dtype == DType::kF32 || scale->dtype == DType::kBF16)) {
      const StoredWeight stored = find_stored_weight(checkpoint, name);
      tensor.type = "I4";
      tensor.shape = {stored.rows, stored.columns};
      tensor.group_size = stored.format.group_size;
    }
    inspection.tensors.push_back(std::move(tensor));
    bytes.push_back(view.bytes);
  }
  if (options.hashes) {
    add_hashes(inspection.tensors, bytes, control);
  }
  return inspection;
}

Inspection inspect_program(const MappedFile& file, const InspectOptions& options, const RunControl& control) {
  executorch::ProgramContents contents = executorch::read_program(file.bytes(), file.path().string());
  Inspection inspection{.kind = "executorch_program",
                        .path = file.path(),
                        .file_bytes = static_cast<std::int64_t>(file.bytes().size()),
                        .methods = std::move(contents.methods),
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
  return inspection;
}

}  // namespace

std::int64_t Inspection::parameters() const {
  std::int64_t total = 0;
  for (const InspectedTensor& tensor : tensors) {
    if (kind != "executorch_program" && !tensor.name.ends_with("_scale")) {
      total += element_count(static_shape(tensor.shape));
    }
  }
  return total;
}

Inspection inspect(const fs::path& path, const InspectOptions& options, const RunControl& control) {
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    const MappedFile file(path);
    if (executorch::is_program(file.bytes())) {
      return inspect_program(file, options, control);
    }
    const bool tensors = file.bytes().size() > 8 && file.bytes()[8] == std::byte{'{'};
    if (!tensors && path.extension() != ".safetensors") {
      throw Error(ErrorCode::kBadFile, path.string(), "is neither a safetensors file nor an ExecuTorch program");
    }
  }
  return inspect_checkpoint(path, options, control);
}

}  // namespace diffulex_edge
