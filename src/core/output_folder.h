// An output folder that appears under its name only when complete.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>

#include "core/temporary_place.h"

namespace diffulex_edge {

// Files go into a TemporaryPlace beside the target. `commit` gives it its name, and all of it is on the disk when it
// returns; without it the destructor removes all traces and an older folder of that name stays as it was. A link's
// target is made or replaced, not the link. All errors are Error{kIo} and name the target.
class OutputFolder {
 public:
  // Whether an existing folder with something in it may be replaced. Asked at once, and again by commit.
  using MayReplace = std::function<bool(const std::filesystem::path&)>;

  explicit OutputFolder(const std::filesystem::path& target, MayReplace may_replace = {});
  ~OutputFolder() = default;
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;
  OutputFolder(OutputFolder&&) = delete;
  OutputFolder& operator=(OutputFolder&&) = delete;

  // Throws for a target that the constructor would refuse, and makes nothing: for whoever works long before it writes.
  static void check(const std::filesystem::path& target, const MayReplace& may_replace = {});

  // Where to write, until commit.
  const std::filesystem::path& path() const { return place_->path(); }
  // A folder in it, with those above it.
  std::filesystem::path make_folder(const std::filesystem::path& relative) const;
  void commit();

 private:
  std::filesystem::path target_;
  MayReplace may_replace_;
  std::unique_ptr<TemporaryPlace> place_;
};

}  // namespace diffulex_edge
