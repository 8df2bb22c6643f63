// Whether a bundle's files are those that were written.
#include <algorithm>
#include <span>
#include <string>
#include <system_error>

#include "bundle/bundle.h"
#include "core/mapped_file.h"
#include "core/sha256.h"
#include "diffulex_edge/error.h"
#include "model_files/model_files.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> files_in(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  fs::recursive_directory_iterator entry(folder, error);
  for (const fs::recursive_directory_iterator end; !error && entry != end; entry.increment(error)) {
    if (!fs::is_directory(entry->symlink_status(error))) {
      files.push_back(entry->path());
    }
  }
  if (error) {
    throw Error(ErrorCode::kBadFile, folder.string(), "could not be read: " + error.message());
  }
  std::ranges::sort(files, {}, [](const fs::path& path) { return path.generic_string(); });
  return files;
}

ArtefactDigest digest_of_folder(const fs::path& folder) {
  ArtefactDigest digest;
  Sha256 hash;
  for (const fs::path& path : files_in(folder)) {
    const ArtefactDigest file = digest_of_file(path);
    digest.bytes += file.bytes;
    const std::string line = file.sha256 + "  " + path.lexically_relative(folder).generic_string() + "\n";
    hash.add(std::as_bytes(std::span(line)));
  }
  digest.sha256 = hash.finish();
  return digest;
}

}  // namespace

// In pieces whose pages go back at once: an artefact may be larger than the memory.
ArtefactDigest digest_of_file(const fs::path& path) {
  constexpr std::size_t kPiece = std::size_t{4} << 20U;
  const MappedFile file(path);
  Sha256 hash;
  for (std::size_t begin = 0; begin < file.bytes().size(); begin += kPiece) {
    const auto piece = file.bytes().subspan(begin, std::min(kPiece, file.bytes().size() - begin));
    hash.add(piece);
    MappedFile::release(piece);
  }
  file.check();
  return {.bytes = static_cast<std::int64_t>(file.bytes().size()), .sha256 = hash.finish()};
}

ArtefactDigest digest_of_document(const fs::path& path) {
  if (document_file(path) == path) {
    return digest_of_file(path);
  }
  const std::string text = document_text(path);
  return {.bytes = std::ssize(text), .sha256 = sha256_hex(std::as_bytes(std::span(text)))};
}

ArtefactDigest digest_of(const fs::path& artefact) {
  std::error_code ignored;
  return fs::is_directory(artefact, ignored) ? digest_of_folder(artefact) : digest_of_file(artefact);
}

void check_files(const Bundle& bundle) {
  const std::string advice = "copy the bundle again, or make it anew";
  const fs::path artefact = bundle.artefact_path();
  const ArtefactDigest found = digest_of(artefact);
  if (found.bytes != bundle.artefact.bytes) {
    throw Error(ErrorCode::kBadFile, artefact.string(),
                "has " + std::to_string(found.bytes) + " bytes, " + std::string(kBundleFile) + " says " +
                    std::to_string(bundle.artefact.bytes),
                advice);
  }
  if (found.sha256 != bundle.artefact.sha256) {
    throw Error(ErrorCode::kBadFile, artefact.string(),
                "is damaged or another one: its SHA-256 is not that of " + std::string(kBundleFile), advice);
  }
  const fs::path tokenizer = bundle.folder / "tokenizer.json";
  if (digest_of(tokenizer).sha256 != bundle.model.tokenizer_sha256) {
    throw Error(ErrorCode::kBadFile, tokenizer.string(), "is damaged or another model's tokenizer", advice);
  }
}

}  // namespace diffulex_edge
