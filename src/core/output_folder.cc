#include "core/output_folder.h"

#include <string>
#include <system_error>
#include <utility>

#include "core/links.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;

// Waits until all files and names in `folder` are on the disk.
void sync_all(const fs::path& folder, const fs::path& target) {
  std::error_code error;
  for (fs::recursive_directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    const fs::file_status status = entry->symlink_status(error);
    if (fs::is_regular_file(status)) {
      sync_file(entry->path(), target);
    } else if (fs::is_directory(status)) {
      sync_folder(entry->path(), target);
    }
  }
  sync_folder(folder, target);
}

// Whether something is there that may be replaced; throws where it may not.
bool replaces(const fs::path& target, const OutputFolder::MayReplace& may_replace) {
  std::error_code error;
  if (!fs::exists(fs::symlink_status(target, error))) {
    return false;
  }
  const bool is_folder = fs::is_directory(target, error);
  if (is_folder && fs::is_empty(target, error)) {
    return false;
  }
  if (!is_folder || !may_replace || !may_replace(target)) {
    throw Error(ErrorCode::kIo, target.string(), "exists and is not an empty folder", "name another folder");
  }
  return true;
}

}  // namespace

void OutputFolder::check(const fs::path& target, const MayReplace& may_replace) {
  const fs::path place = follow_links(without_slash(target), true);
  replaces(place, may_replace);
  check_output_name(place);
}

OutputFolder::OutputFolder(const fs::path& target, MayReplace may_replace)
    : target_(follow_links(without_slash(target), true)), may_replace_(std::move(may_replace)) {
  replaces(target_, may_replace_);
  place_ = std::make_unique<TemporaryPlace>(folder_of(target_), target_.filename());
  std::error_code error;
  if (!fs::create_directory(place_->path(), error)) {
    throw Error(ErrorCode::kIo, target_.string(), "can't create: " + error.message());
  }
}

fs::path OutputFolder::make_folder(const fs::path& relative) const {
  std::error_code error;
  fs::create_directories(path() / relative, error);
  if (error) {
    throw Error(ErrorCode::kIo, (target_ / relative).string(), "can't create: " + error.message());
  }
  return path() / relative;
}

void OutputFolder::commit() {
  sync_all(path(), target_);
  std::error_code error;
  if (replaces(target_, may_replace_)) {
    error = place_->replace_folder();
  } else {
    fs::rename(path(), target_, error);
  }
  if (error) {
    throw Error(ErrorCode::kIo, target_.string(), "can't give the folder its name: " + error.message());
  }
  place_.reset();  // and with it the folder that was replaced
  sync_folder(folder_of(target_), target_);
}

}  // namespace diffulex_edge
