#include "diffulex_edge/model_hash.h"

#include <algorithm>
#include <set>

#include "core/mapped_file.h"
#include "core/parallel.h"
#include "core/sha256.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

constexpr std::size_t kPiece = std::size_t{4} << 20U;

std::vector<std::filesystem::path> files_of(const Model& model) {
  std::set<std::filesystem::path> weights;
  for (const auto& [name, view] : model.checkpoint->tensors()) {
    weights.insert(view.file->path());
  }
  std::vector<std::filesystem::path> files = {model.path / "config.json"};
  files.insert(files.end(), weights.begin(), weights.end());
  return files;
}

std::string hash_file(const MappedFile& file, const RunControl& control) {
  Sha256 hash;
  for (auto rest = file.bytes(); !rest.empty();) {
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

}  // namespace

ModelHash hash_model(const Model& model, const RunControl& control) {
  const std::vector<std::filesystem::path> files = files_of(model);
  ModelHash result;
  result.files.resize(files.size());
  parallel_for(files.size(), control, [&](std::size_t i, std::size_t) {
    const MappedFile file(files[i]);
    result.files[i] = {.name = files[i].filename().string(),
                       .bytes = static_cast<std::int64_t>(file.bytes().size()),
                       .sha256 = hash_file(file, control)};
  });
  std::string lines;
  for (const FileHash& file : result.files) {
    lines += file.sha256 + "  " + file.name + "\n";
  }
  result.sha256 = sha256_hex(std::as_bytes(std::span(lines)));
  return result;
}

}  // namespace diffulex_edge
