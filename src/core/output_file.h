// An output file that appears under its name only when complete.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <stop_token>
#include <string_view>

#include "core/temporary_place.h"

namespace diffulex_edge {

// Bytes go to an unnamed file in the target's folder (where the file system can do that: then even SIGKILL leaves
// nothing behind before `commit`) or to a TemporaryPlace beside it. `commit` gives it its name in one step, and is on
// the disk when it returns; without it the destructor removes all traces and an older file of that name stays as it
// was. All errors are Error{kIo} and name the target.
class OutputFile {
 public:
  // `size` is reserved on disk at once, so that a full disk shows before any work is done.
  OutputFile(const std::filesystem::path& target, std::int64_t size);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  OutputFile(OutputFile&&) = delete;
  OutputFile& operator=(OutputFile&&) = delete;

  // Throws for a target that the constructor would refuse, and makes nothing: for whoever works long before it writes.
  static void check(const std::filesystem::path& target);

  // May be called from several threads at once, for ranges that do not overlap, inside the reserved size.
  void write(std::int64_t offset, std::span<const std::byte> bytes);
  // Brings what was written to the disk piece by piece; throws Error{kCancelled} when asked to stop.
  void flush(const std::stop_token& stop) const;
  void commit();

 private:
  [[noreturn]] void fail(const char* action, int error_number) const;
  void open_file();
  void give_name();

  std::filesystem::path target_;
  std::unique_ptr<TemporaryPlace> place_;  // of the file; none while it has no name
  int descriptor_ = -1;
  std::int64_t size_;
};

// A whole file at once. Throws Error{kIo} as OutputFile does.
void write_file(const std::filesystem::path& target, std::string_view text);

}  // namespace diffulex_edge
