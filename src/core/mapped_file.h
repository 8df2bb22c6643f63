// A read-only memory-mapped file whose pages can be given back as soon as they were used.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <span>

#include "core/mapping_guard.h"

namespace diffulex_edge {

class MappedFile {
 public:
  // Throws Error{kBadFile} where the path is missing, not a regular file or unreadable, and for the text that Git LFS
  // leaves in the place of a file.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  MappedFile(MappedFile&&) = delete;
  MappedFile& operator=(MappedFile&&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

  // Throws Error{kBadFile} where a part of the file could not be read: another process cut it, or the disk failed. What
  // could not be read was zeros, so whoever makes something of the bytes asks before giving it away.
  void check() const;
  // The same for the file that is mapped at `data`, if one is.
  static void check(const std::byte* data);
  static bool contains(const std::byte* data);

  // Asks the system to read ahead, or to drop the pages that `range` touches from this process (they stay in the page
  // cache and come back when touched again). Hints: they change no result. Memory that is not a mapped file's, such as
  // the tensors of a module, is not touched: dropping its pages would lose what is in them. `release` is called when
  // the range was used, and throws as `check`.
  static void will_need(std::span<const std::byte> range);
  static void release(std::span<const std::byte> range);

  // Copies a few bytes to `target`, of the same size, from a place of which nothing else is wanted: a plain access
  // would read 128 KiB of the disk ahead, and keep what the system maps around a page, 64 KiB of what is in its cache.
  static void copy_alone(std::span<const std::byte> range, std::span<std::byte> target);

 private:
  void unmap();

  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::optional<GuardedRange> guard_;
};

}  // namespace diffulex_edge
