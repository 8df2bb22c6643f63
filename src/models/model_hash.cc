#include "diffulex_edge/model_hash.h"

#include <algorithm>
#include <set>

#include "core/mapped_file.h"
#include "core/parallel.h"
#include "core/sha256.h"
#include "diffulex_edge/error.h"
#include "model_files/model_files.h"

namespace diffulex_edge {
namespace {

constexpr std::size_t kPiece = std::size_t{4} << 20U;

bool is_in_memory(const Model& model) { return model.checkpoint->path().empty(); }

std::vector<std::filesystem::path> files_of(const Model& model) {
  std::set<std::filesystem::path> weights = model.checkpoint->files();
  const std::filesystem::path config = document_file(model.path / "config.json");
  weights.erase(config);  // of a GGUF file, which is both
  std::vector<std::filesystem::path> files = {config};
  files.insert(files.end(), weights.begin(), weights.end());
  return files;
}

std::string hash_bytes(std::span<const std::byte> rest, const RunControl& control) {
  Sha256 hash;
  while (!rest.empty()) {
    if (control.stop.stop_requested()) {
      throw Error(ErrorCode::kCancelled, {}, "stopped");
    }
    const auto piece = rest.first(std::min(kPiece, rest.size()));
    hash.add(piece);
    MappedFile::release(piece);
    rest = rest.subspan(piece.size());
  }
  return hash.finish();
}

std::vector<FileHash> hash_files(const std::vector<std::filesystem::path>& files, const RunControl& control) {
  std::vector<FileHash> hashes(files.size());
  parallel_for(files.size(), control, [&](std::size_t i, std::size_t) {
    const MappedFile file(files[i]);
    hashes[i] = {.name = files[i].filename().string(),
                 .bytes = static_cast<std::int64_t>(file.bytes().size()),
                 .sha256 = hash_bytes(file.bytes(), control)};
  });
  return hashes;
}

std::vector<FileHash> hash_tensors(const Checkpoint& checkpoint, const RunControl& control) {
  std::vector<const TensorView*> views;
  for (const auto& [name, view] : checkpoint.tensors()) {
    views.push_back(&view);
  }
  std::vector<FileHash> hashes(views.size());
  parallel_for(views.size(), control, [&](std::size_t i, std::size_t) {
    hashes[i] = {.name = views[i]->name,
                 .bytes = static_cast<std::int64_t>(views[i]->bytes.size()),
                 .sha256 = hash_bytes(views[i]->bytes, control)};
  });
  return hashes;
}

}  // namespace

ModelHash hash_model(const Model& model, const RunControl& control) {
  ModelHash result;
  result.files = is_in_memory(model) ? hash_tensors(*model.checkpoint, control) : hash_files(files_of(model), control);
  std::string lines;
  for (const FileHash& file : result.files) {
    lines += file.sha256 + "  " + file.name + "\n";
  }
  result.sha256 = sha256_hex(std::as_bytes(std::span(lines)));
  return result;
}

}  // namespace diffulex_edge
