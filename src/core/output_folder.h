// An output folder that appears under its name only when complete.
#pragma once

#include <filesystem>
#include <functional>

namespace diffulex_edge {

// Files go into a hidden folder beside the target. `commit` gives it its name; without it the destructor removes all
// traces and an older folder of that name stays as it was. A link's target is made or replaced, not the link. All
// errors are Error{kIo} and name the target.
class OutputFolder {
 public:
  // Whether an existing folder with something in it may be replaced. Asked at once, and again by commit.
  using MayReplace = std::function<bool(const std::filesystem::path&)>;

  explicit OutputFolder(const std::filesystem::path& target, MayReplace may_replace = {});
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;
  OutputFolder(OutputFolder&&) = delete;
  OutputFolder& operator=(OutputFolder&&) = delete;

  // Where to write.
  const std::filesystem::path& path() const { return partial_; }
  // A folder in it, with those above it.
  std::filesystem::path make_folder(const std::filesystem::path& relative) const;
  void commit();

 private:
  // Throws where something is in the way that may not be replaced.
  bool replaces() const;

  std::filesystem::path target_;
  MayReplace may_replace_;
  std::filesystem::path partial_;
};

}  // namespace diffulex_edge
