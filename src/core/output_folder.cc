#include "core/output_folder.h"

#include <unistd.h>

#include <string>
#include <system_error>
#include <utility>

#include "core/links.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;

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
    : target_(follow_links(without_slash(target), true)), may_replace_(std::move(may_replace)) {
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
