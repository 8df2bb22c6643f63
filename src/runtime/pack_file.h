// A model's packed weights in a file: written once, then mapped, so that a model starts without packing and processes
// share its memory.
//
// Layout: magic, the header's size as a little-endian 64-bit number, the header (JSON: "key", "images" as pairs of
// place and size, "bytes" of the file), then the images, each at a multiple of 64.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/mapped_file.h"
#include "diffulex_edge/progress.h"

namespace diffulex_edge {

class PackFile {
 public:
  // The file of `key` in a folder, which need not exist.
  static std::filesystem::path path_of(const std::filesystem::path& folder, const std::string& key);

  // Nothing where there is no such file. Error{kBadFile} for one that is cut, broken or of another key.
  static std::optional<PackFile> open(const std::filesystem::path& folder, const std::string& key);

  // Makes the folder and writes the file whole, in place of an older one. Error{kIo}, kCancelled.
  static void write(const std::filesystem::path& folder, const std::string& key,
                    std::span<const std::span<const std::byte>> images, const RunControl& control);

  const std::vector<std::span<const std::byte>>& images() const { return images_; }
  // Keeps the mapping.
  std::shared_ptr<const MappedFile> file() const { return file_; }

 private:
  explicit PackFile(const std::filesystem::path& path);
  void read_header(const std::string& key);
  [[noreturn]] void fail(const std::string& what) const;

  std::shared_ptr<const MappedFile> file_;
  std::vector<std::span<const std::byte>> images_;
};

}  // namespace diffulex_edge
