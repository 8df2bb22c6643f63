// Looks into checkpoints and artefacts.

#include "diffulex_edge/inspection.h"

#include <map>
#include <span>
#include <utility>

#include "backends/coreml/package.h"
#include "backends/coreml/package_reader.h"
#include "backends/executorch/program_reader.h"
#include "backends/qnn/package.h"
#include "backends/qnn/package_reader.h"
#include "checkpoint/stored_weight.h"
#include "core/mapped_file.h"
#include "core/parallel.h"
#include "core/sha256.h"
#include "diffulex_edge/checkpoint.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;

// The tensors' bytes, in the order of Inspection::tensors, hashed on all cores. Bytes that several tensors share are
// read once.
void add_hashes(std::vector<InspectedTensor>& tensors, const std::vector<std::span<const std::byte>>& bytes,
                const RunControl& control) {
  std::map<std::pair<const std::byte*, std::size_t>, std::size_t> first;
  std::vector<std::size_t> distinct;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (first.emplace(std::pair(bytes[i].data(), bytes[i].size()), i).second) {
      distinct.push_back(i);
    }
  }
  parallel_for(distinct.size(), control, [&](std::size_t item, std::size_t) {
    const std::size_t i = distinct[item];
    tensors[i].sha256 = sha256_hex(bytes[i]);
    MappedFile::release(bytes[i]);
  });
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    tensors[i].sha256 = tensors[first.at(std::pair(bytes[i].data(), bytes[i].size()))].sha256;
  }
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

Inspection inspect_packages(std::string kind, const fs::path& path, PackageContents contents,
                            const InspectOptions& options, const RunControl& control) {
  Inspection inspection{.kind = std::move(kind),
                        .path = path,
                        .models = std::move(contents.models),
                        .files = std::move(contents.files),
                        .tensors = std::move(contents.weights)};
  for (const InspectedFile& file : inspection.files) {
    inspection.file_bytes += file.bytes;
  }
  if (options.hashes) {
    add_hashes(inspection.tensors, contents.bytes, control);
  }
  return inspection;
}

}  // namespace

std::int64_t Inspection::parameters() const {
  std::int64_t total = 0;
  const bool is_checkpoint = kind == "checkpoint" || kind == "safetensors";
  for (const InspectedTensor& tensor : tensors) {
    if (is_checkpoint && !tensor.name.ends_with("_scale")) {
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
  } else if (coreml::is_package(path) || path.extension() == ".mlpackage") {
    PackageContents contents = coreml::read_package(path);
    const bool is_pipeline = contents.models.front().type == "pipeline";
    return inspect_packages(is_pipeline ? "coreml_pipeline" : "coreml_package", path, std::move(contents), options,
                            control);
  } else if (qnn::is_package(path)) {
    return inspect_packages("qnn_package", path, qnn::read_package(path), options, control);
  } else if (fs::exists(path / coreml::kChunksManifest, error) && !fs::exists(path / "config.json", error)) {
    return inspect_packages("coreml_chunks", path, coreml::read_chunks(path), options, control);
  }
  return inspect_checkpoint(path, options, control);
}

}  // namespace diffulex_edge
