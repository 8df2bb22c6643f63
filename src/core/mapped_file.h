// A read-only memory-mapped file whose pages can be given back as soon as they were used.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace diffulex_edge {

class MappedFile {
 public:
  // Throws Error{kBadFile} where the path is missing, not a regular file or unreadable.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  MappedFile(MappedFile&&) = delete;
  MappedFile& operator=(MappedFile&&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

  // Asks the system to read ahead, or to drop the pages that `range` touches from this process (they stay in the page
  // cache and come back when touched again). Hints: they change no result. Memory that is not a mapped file's, such as
  // the tensors of a module, is left alone: dropping its pages would lose what is in them.
  static void will_need(std::span<const std::byte> range);
  static void release(std::span<const std::byte> range);

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace diffulex_edge
