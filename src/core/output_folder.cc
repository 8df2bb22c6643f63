#include "core/output_folder.h"

#include <unistd.h>

#include <string>
#include <system_error>
#include <utility>

#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;

fs::path folder_of(const fs::path& target) { return target.has_parent_path() ? target.parent_path() : fs::path("."); }

// What `target` names, without a slash at its end: links lead to the folder that is made or replaced.
fs::path resolve(const fs::path& target) {
  constexpr int kMostLinks = 40;
  std::error_code error;
  fs::path resolved = target.has_filename() ? target : target.parent_path();
  for (int links = 0; fs::is_symlink(resolved, error); ++links) {
    if (links == kMostLinks) {
      throw Error(ErrorCode::kIo, target.string(), "can't follow the link: it leads back to itself");
    }
    const fs::path next = folder_of(resolved) / fs::read_symlink(resolved, error);
    resolved = next.has_filename() ? next : next.parent_path();
  }
  return resolved;
}

// A new, hidden folder beside `target`. Those that a killed process left are not taken.
fs::path make_hidden(const fs::path& target, const std::string& kind) {
  const std::string stem = "." + target.filename().string() + "." + kind + "-" + std::to_string(::getpid()) + "-";
  for (int i = 0;; ++i) {
    std::error_code error;
    fs::path made = folder_of(target) / (stem + std::to_string(i));
    if (fs::create_directory(made, error)) {
      return made;
    }
    if (error) {
      throw Error(ErrorCode::kIo, target.string(), "can't create: " + error.message());
    }
  }
}

}  // namespace

OutputFolder::OutputFolder(const fs::path& target, MayReplace may_replace)
    : target_(resolve(target)), may_replace_(std::move(may_replace)) {
  replaces();
  partial_ = make_hidden(target_, "partial");
}

bool OutputFolder::replaces() const {
  std::error_code error;
  if (!fs::exists(fs::symlink_status(target_, error))) {
    return false;
  }
  const bool is_folder = fs::is_directory(target_, error);
  if (is_folder && fs::is_empty(target_, error)) {
    return false;
  }
  if (!is_folder || !may_replace_ || !may_replace_(target_)) {
    throw Error(ErrorCode::kIo, target_.string(), "exists and is not an empty folder", "name a new folder with -o");
  }
  return true;
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
  fs::path old;
  if (replaces()) {
    old = make_hidden(target_, "old");
    fs::rename(target_, old, error);
  }
  if (!error) {
    fs::rename(partial_, target_, error);
    if (error && !old.empty()) {
      fs::rename(old, target_, ignored);
    }
  } else {
    fs::remove(old, ignored);
  }
  if (error) {
    throw Error(ErrorCode::kIo, target_.string(), "can't give the folder its name: " + error.message());
  }
  if (!old.empty()) {
    fs::remove_all(old, ignored);
  }
}

}  // namespace diffulex_edge
