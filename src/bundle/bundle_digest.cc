// Whether a bundle's files are those that were written.
#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <system_error>

#include "bundle/bundle.h"
#include "core/mapped_file.h"
#include "core/sha256.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/tokenizer.h"
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

// Of the lines "SHA-256  PATH\n" of files in a folder.
ArtefactDigest digest_of_lines(const std::vector<fs::path>& files, const fs::path& folder) {
  ArtefactDigest digest;
  Sha256 hash;
  for (const fs::path& path : files) {
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

std::optional<std::string> tokenizer_digest(const fs::path& folder) {
  std::vector<fs::path> files = tokenizer_files(folder);
  if (files.empty()) {
    return std::nullopt;
  }
  if (files.size() == 1 && files.front().extension() == ".json") {
    return digest_of_document(files.front()).sha256;
  }
  std::ranges::sort(files);
  return digest_of_lines(files, folder).sha256;
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
  return fs::is_directory(artefact, ignored) ? digest_of_lines(files_in(artefact), artefact) : digest_of_file(artefact);
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
  const std::vector<fs::path> tokenizer = tokenizer_files(bundle.folder);
  if (tokenizer.empty()) {
    throw Error(ErrorCode::kBadFile, bundle.folder.string(), "has lost its tokenizer (tokenizer.json, or its kin)",
                advice);
  }
  if (tokenizer_digest(bundle.folder) != bundle.model.tokenizer_sha256) {
    const bool is_one = tokenizer.size() == 1;
    throw Error(ErrorCode::kBadFile, tokenizer.front().string(),
                std::string(is_one ? "is" : "or a file beside it is") + " damaged or another model's tokenizer",
                advice);
  }
}

}  // namespace diffulex_edge
