#include "checkpoint/hub_cache.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <string_view>
#include <system_error>

#include "core/links.h"
#include "core/mapped_file.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "models--";
constexpr std::string_view kSeparator = "--";

// A folder that the environment names; an empty variable names none.
std::optional<fs::path> folder_in(const char* variable) {
  const char* value = std::getenv(variable);
  if (value == nullptr || *value == '\0') {
    return std::nullopt;
  }
  const std::string_view text = value;
  const char* home = std::getenv("HOME");
  return home != nullptr && text.starts_with("~/") ? fs::path(home) / text.substr(2) : fs::path(text);
}

// The hub's rules for a part of a name.
bool is_name_part(std::string_view part) {
  const auto may_be = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_' || c == '.';
  };
  return !part.empty() && part.front() != '.' && part.front() != '-' &&
         part.find(kSeparator) == std::string_view::npos && std::ranges::all_of(part, may_be);
}

// NAME or ORG/NAME.
bool is_repository_name(std::string_view name) {
  const std::size_t slash = name.find('/');
  return slash == std::string_view::npos ? is_name_part(name)
                                         : is_name_part(name.substr(0, slash)) && is_name_part(name.substr(slash + 1));
}

fs::path repository_folder(std::string name) {
  const std::size_t slash = name.find('/');
  if (slash != std::string::npos) {
    name.replace(slash, 1, kSeparator);
  }
  return hub_cache() / (std::string(kPrefix) + name);
}

// A repository's folder holds those of its commits.
bool is_repository(const fs::path& folder) {
  std::error_code error;
  return without_slash(folder).filename().string().starts_with(kPrefix) &&
         fs::is_directory(folder / "snapshots", error);
}

std::string read_commit(const fs::path& reference) {
  constexpr std::size_t kMost = 256;
  const MappedFile file(reference);
  const std::string_view bytes(reinterpret_cast<const char*>(file.bytes().data()),
                               std::min(file.bytes().size(), kMost));
  const std::string commit(bytes.substr(0, bytes.find_first_of(" \r\n")));
  if (!is_inside(commit) || commit.find('/') != std::string::npos) {
    throw Error(ErrorCode::kBadFile, reference.string(), "does not hold the name of a commit", "download it again");
  }
  return commit;
}

fs::path main_snapshot(const fs::path& repository) {
  const std::string advice = download_advice(cached_repository(repository).value_or("ORG/NAME"));
  const fs::path reference = repository / "refs" / "main";
  if (!is_present(reference)) {
    throw Error(ErrorCode::kBadFile, repository.string(), "has no revision main: there is no refs/main",
                advice + ", or give one of the folders in snapshots");
  }
  fs::path snapshot = repository / "snapshots" / read_commit(reference);
  if (!is_present(snapshot)) {
    throw Error(ErrorCode::kBadFile, snapshot.string(),
                "is not there, though refs/main names it: the download is incomplete", advice);
  }
  return snapshot;
}

}  // namespace

fs::path hub_cache() {
  for (const char* variable : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"}) {
    if (const auto folder = folder_in(variable)) {
      return *folder;
    }
  }
  if (const auto home = folder_in("HF_HOME")) {
    return *home / "hub";
  }
  const auto caches = folder_in("XDG_CACHE_HOME");
  return (caches ? *caches : folder_in("HOME").value_or("/") / ".cache") / "huggingface" / "hub";
}

std::optional<std::string> cached_repository(const fs::path& folder) {
  for (const fs::path& part : folder) {
    std::string name = part.string();
    if (name.starts_with(kPrefix)) {
      name.erase(0, kPrefix.size());
      const std::size_t separator = name.find(kSeparator);
      return separator == std::string::npos ? name : name.replace(separator, kSeparator.size(), "/");
    }
  }
  return std::nullopt;
}

std::string download_advice(const std::string& repository) { return "run `hf download " + repository + "`"; }

fs::path find_folder(const fs::path& name) {
  std::error_code error;
  if (fs::exists(fs::symlink_status(name, error))) {
    return is_repository(name) ? main_snapshot(name) : name;
  }
  const std::string text = name.string();
  if (!is_repository_name(text)) {
    return name;
  }
  const fs::path repository = repository_folder(text);
  if (is_repository(repository)) {
    return main_snapshot(repository);
  }
  if (text.find('/') == std::string::npos) {
    return name;  // a folder's name, as far as one can see
  }
  throw Error(ErrorCode::kBadFile, text, "is neither here nor in the Hugging Face cache " + hub_cache().string(),
              "if it is a model of the hub, " + download_advice(text));
}

}  // namespace diffulex_edge
