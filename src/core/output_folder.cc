#include "core/output_folder.h"

#include <unistd.h>

#include <string>
#include <system_error>

#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;

// `name` in the folder of `target`, hidden.
fs::path hidden_beside(const fs::path& target, const std::string& kind) {
  const fs::path parent = target.has_parent_path() ? target.parent_path() : fs::path(".");
  return parent / ("." + target.filename().string() + "." + kind + "-" + std::to_string(::getpid()));
}

}  // namespace

OutputFolder::OutputFolder(const fs::path& target, const MayReplace& may_replace)
    : target_(target.has_filename() ? target : target.parent_path()), partial_(hidden_beside(target_, "partial")) {
  std::error_code error;
  if (fs::exists(fs::symlink_status(target_, error))) {
    const bool is_folder = fs::is_directory(target_, error);
    const bool is_empty = is_folder && fs::is_empty(target_, error);
    if (!is_empty && !(is_folder && may_replace && may_replace(target_))) {
      throw Error(ErrorCode::kIo, target_.string(), "exists and is not an empty folder", "name a new folder with -o");
    }
  }
  fs::create_directory(partial_, error);
  if (error) {
    throw Error(ErrorCode::kIo, target_.string(), "can't create: " + error.message());
  }
}

OutputFolder::~OutputFolder() {
  std::error_code ignored;
  fs::remove_all(partial_, ignored);
}

fs::path OutputFolder::make_folder(const fs::path& relative) const {
  std::error_code error;
  fs::create_directories(partial_ / relative, error);
  if (error) {
    throw Error(ErrorCode::kIo, (target_ / relative).string(), "can't create: " + error.message());
  }
  return partial_ / relative;
}

void OutputFolder::commit() {
  std::error_code ignored;
  std::error_code error;
  const bool replaces = fs::is_directory(target_, ignored) && !fs::is_empty(target_, ignored);
  const fs::path old = hidden_beside(target_, "old");
  if (replaces) {
    fs::rename(target_, old, error);
  }
  if (!error) {
    fs::rename(partial_, target_, error);
    if (error && replaces) {
      fs::rename(old, target_, ignored);
    }
  }
  if (error) {
    throw Error(ErrorCode::kIo, target_.string(), "can't give the folder its name: " + error.message());
  }
  if (replaces) {
    fs::remove_all(old, ignored);
  }
}

}  // namespace diffulex_edge
