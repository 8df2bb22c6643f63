#include "backends/package_contents.h"

#include <map>
#include <utility>

#include "core/parallel.h"
#include "core/sha256.h"

namespace diffulex_edge {

Inspection inspection_of(std::string kind, const std::filesystem::path& folder, PackageContents contents,
                         const InspectOptions& options, const RunControl& control) {
  Inspection inspection{.kind = std::move(kind),
                        .path = folder,
                        .models = std::move(contents.models),
                        .files = std::move(contents.files),
                        .tensors = std::move(contents.weights)};
  for (const InspectedFile& file : inspection.files) {
    inspection.file_bytes += file.bytes;
  }
  if (options.hashes) {
    add_hashes(inspection.tensors, contents.bytes, control);
  }
  for (const auto& file : contents.mapped) {
    file->check();
  }
  return inspection;
}

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

}  // namespace diffulex_edge
