// Hidden places for what is not finished yet: made under names that nobody else has, removed by their owner, or by a
// later run where the owner was killed.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <utility>

namespace diffulex_edge {

// Two names in a folder: a mark, `.diffulex-edge-ID`, and the content beside it, `.diffulex-edge-ID.part`, a file or a
// folder that the owner makes. ID is random. The mark is a small file that says what it is, and is locked (flock) as
// long as the owner lives: a mark with the right text that nobody has locked was abandoned, and what bears its ID was
// made by this library. Names prove nothing, and nothing is removed for its name.
class TemporaryPlace {
 public:
  // In `folder`, on the way to `output` in it. Removes abandoned places there first. Throws Error{kIo} naming
  // folder/output.
  TemporaryPlace(const std::filesystem::path& folder, const std::filesystem::path& output);
  // Removes the content, if it is still there, and the mark.
  ~TemporaryPlace();
  TemporaryPlace(const TemporaryPlace&) = delete;
  TemporaryPlace& operator=(const TemporaryPlace&) = delete;
  TemporaryPlace(TemporaryPlace&&) = delete;
  TemporaryPlace& operator=(TemporaryPlace&&) = delete;

  // Of the content. Nothing is there until the owner makes it.
  const std::filesystem::path& path() const { return content_; }
  // Gives the content, a folder, the name `output`. An older folder of that name goes, in the same step where the file
  // system can exchange two names. Returns an error, after which the older one is where it was.
  std::error_code replace_folder();

 private:
  void make_mark(const std::filesystem::path& folder);
  void check_taken(int error_number) const;

  std::string id_;
  std::filesystem::path target_;
  std::filesystem::path mark_;
  std::filesystem::path content_;
  int lock_ = -1;  // the open mark
};

// Removes what owners that no longer live left in `folder`. What can't be removed stays, which is no error.
void remove_abandoned_places(const std::filesystem::path& folder);

// Whether a folder's files are in memory (tmpfs, ramfs).
bool is_in_memory(const std::filesystem::path& folder);

// A temporary folder for files as large as a model, made when it is asked for.
class Workspace {
 public:
  // `output` is a file or folder that will be written; empty where there is none.
  explicit Workspace(std::filesystem::path output = {}) : output_(std::move(output)) {}

  // The folder: beside the output, or in $TMPDIR, /var/tmp or the current folder; the first of them that can be
  // written and is not in memory. Throws Error{kIo} where there is none.
  const std::filesystem::path& folder();

 private:
  std::filesystem::path output_;
  std::unique_ptr<TemporaryPlace> place_;
};

// Throws Error{kIo} for a name that is too long, and for a folder that is not there or may not be written to: either
// would show only when the output is made or gets its name.
void check_output_name(const std::filesystem::path& output);

// Waits until a file's bytes, or the names in a folder, are on the disk. Throws Error{kIo} naming `output`.
void sync_file(const std::filesystem::path& file, const std::filesystem::path& output);
void sync_folder(const std::filesystem::path& folder, const std::filesystem::path& output);

}  // namespace diffulex_edge
