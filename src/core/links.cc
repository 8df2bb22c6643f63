#include "core/links.h"

#include <algorithm>
#include <system_error>

#include "diffulex_edge/error.h"

namespace diffulex_edge {

namespace fs = std::filesystem;

bool is_present(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() != fs::file_type::not_found) {
    return true;  // or can't be looked at, which opening it says
  }
  if (fs::is_symlink(fs::symlink_status(path, error))) {
    throw Error(ErrorCode::kBadFile, path.string(),
                "is a link to a file that is not there: " + fs::read_symlink(path, error).string(),
                "the download is incomplete: download it again");
  }
  return false;
}

bool is_inside(std::string_view path) {
  std::size_t begin = 0;
  while (true) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    const std::string_view part = path.substr(begin, end - begin);
    if (part.empty() || part == "." || part == ".." || part.find('\0') != std::string_view::npos) {
      return false;
    }
    if (end == path.size()) {
      return true;
    }
    begin = end + 1;
  }
}

fs::path folder_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

fs::path without_slash(const fs::path& path) { return path.has_filename() ? path : path.parent_path(); }

fs::path follow_links(const fs::path& target, bool to_folder) {
  constexpr int kMostLinks = 40;
  std::error_code error;
  fs::path path = target;
  for (int links = 0; fs::is_symlink(path, error); ++links) {
    if (links == kMostLinks) {
      throw Error(ErrorCode::kIo, target.string(), "can't follow the link: it leads back to itself");
    }
    const fs::path next = folder_of(path) / fs::read_symlink(path, error);
    path = to_folder ? without_slash(next) : next;
  }
  return path;
}

}  // namespace diffulex_edge
