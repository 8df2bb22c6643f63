#include "core/temporary_place.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <random>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "core/join.h"
#include "core/links.h"
#include "core/unnamed_file.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = ".diffulex-edge-";
constexpr std::string_view kContent = ".part";
constexpr std::string_view kOld = ".old";
constexpr std::string_view kMagic = "a temporary place of diffulex-edge, ";
constexpr std::size_t kIdDigits = 32;
constexpr int kMostTries = 100;

std::string random_id() {
  std::random_device device;
  std::string id;
  std::array<char, 9> digits{};
  while (id.size() < kIdDigits) {
    std::snprintf(digits.data(), digits.size(), "%08x", static_cast<unsigned>(device()));
    id += digits.data();
  }
  return id;
}

[[noreturn]] void fail(const fs::path& output, const char* action, int error_number) {
  throw Error(ErrorCode::kIo, output.string(), std::string(action) + ": " + std::strerror(error_number));
}

fs::path mark_path(const fs::path& folder, std::string_view id) { return folder / std::string(kPrefix).append(id); }
fs::path beside(const fs::path& mark, std::string_view ending) { return fs::path(mark) += ending; }

std::string mark_text(std::string_view id, std::string_view output) {
  return std::string(kMagic).append(id).append("\n").append(output).append("\n");
}

class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  ~Descriptor() {
    if (value_ >= 0) {
      ::close(value_);
    }
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  Descriptor(Descriptor&&) = delete;
  Descriptor& operator=(Descriptor&&) = delete;

  int get() const { return value_; }
  int release() { return std::exchange(value_, -1); }

 private:
  int value_;
};

// The output's name from a mark's text; nothing where the text is no mark's.
std::optional<std::string> output_of(std::string_view text, std::string_view id) {
  const std::string start = mark_text(id, "").substr(0, kMagic.size() + id.size() + 1);
  if (!text.starts_with(start) || !text.ends_with('\n') || text.size() < start.size() + 2) {
    return std::nullopt;
  }
  std::string name(text.substr(start.size(), text.size() - start.size() - 1));
  const bool is_name = name != "." && name != ".." && name.find('/') == std::string::npos;
  return is_name ? std::optional(std::move(name)) : std::nullopt;
}

std::string read_mark(int descriptor) {
  std::array<char, 512> buffer{};
  const ssize_t count = ::pread(descriptor, buffer.data(), buffer.size(), 0);
  return count > 0 ? std::string(buffer.data(), static_cast<std::size_t>(count)) : std::string();
}

bool is_there(const fs::path& path) {
  std::error_code error;
  return fs::exists(fs::symlink_status(path, error));
}

// The mark is locked now, and its owner gone.
void remove_place(const fs::path& mark, const fs::path& target) {
  std::error_code ignored;
  const fs::path content = beside(mark, kContent);
  const fs::path old = beside(mark, kOld);
  if (is_there(old)) {
    // Between two renames: the old output goes back, unless its name was taken since.
    if (is_there(content)) {
      if (is_there(target)) {
        return;
      }
      fs::rename(old, target, ignored);
    } else {
      fs::remove_all(old, ignored);
    }
  }
  fs::remove_all(content, ignored);
  if (!is_there(content) && !is_there(old)) {
    fs::remove(mark, ignored);
  }
}

void remove_if_abandoned(const fs::path& mark, std::string_view id) {
  const Descriptor file(::open(mark.c_str(), O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct stat opened{};
  if (file.get() < 0 || ::fstat(file.get(), &opened) != 0 || !S_ISREG(opened.st_mode) || opened.st_uid != ::geteuid()) {
    return;
  }
  // The owner writes the text under its lock: where the text is there, so was the lock.
  const auto output = output_of(read_mark(file.get()), id);
  if (!output || ::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    return;
  }
  struct stat named{};
  if (::lstat(mark.c_str(), &named) == 0 && named.st_ino == opened.st_ino && named.st_dev == opened.st_dev) {
    remove_place(mark, mark.parent_path() / *output);
  }
}

}  // namespace

void remove_abandoned_places(const fs::path& folder) {
  std::error_code error;
  std::vector<std::string> ids;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (name.size() == kPrefix.size() + kIdDigits && name.starts_with(kPrefix)) {
      ids.push_back(name.substr(kPrefix.size()));
    }
  }
  for (const std::string& id : ids) {
    remove_if_abandoned(mark_path(folder, id), id);
  }
}

// The mark appears with its text and locked, where the file system has unnamed files. lock_ stays -1 where the name is
// taken.
void TemporaryPlace::make_mark(const fs::path& folder) {
  constexpr mode_t kOwnerOnly = S_IRUSR | S_IWUSR;
  int made = open_unnamed(folder, kOwnerOnly);
  const bool is_unnamed = made >= 0;
  if (!is_unnamed) {
    made = ::open(mark_.c_str(), O_CREAT | O_EXCL | O_NOFOLLOW | O_RDWR | O_CLOEXEC, kOwnerOnly);
  }
  if (made < 0) {
    check_taken(errno);
    return;
  }
  Descriptor file(made);
  // Without a lock, or on a full disk, the mark stays empty: then nobody takes the place for an abandoned one.
  if (::flock(file.get(), LOCK_EX | LOCK_NB) == 0) {
    const std::string text = mark_text(id_, target_.filename().string());
    const ssize_t written = ::pwrite(file.get(), text.data(), text.size(), 0);
    if (written != static_cast<ssize_t>(text.size()) && ::ftruncate(file.get(), 0) != 0) {
      fail(target_, "can't create", errno);
    }
  }
  if (is_unnamed && !link_unnamed(file.get(), mark_)) {
    check_taken(errno);
    return;
  }
  lock_ = file.release();
}

// The one reason for another try.
void TemporaryPlace::check_taken(int error_number) const {
  if (error_number != EEXIST) {
    fail(target_, "can't create", error_number);
  }
}

TemporaryPlace::TemporaryPlace(const fs::path& folder, const fs::path& output) : target_(folder / output) {
  check_output_name(target_);
  remove_abandoned_places(folder);
  for (int tries = 0; lock_ < 0; ++tries) {
    if (tries == kMostTries) {
      fail(target_, "can't create", EEXIST);
    }
    id_ = random_id();
    mark_ = mark_path(folder, id_);
    content_ = beside(mark_, kContent);
    if (!is_there(content_) && !is_there(beside(mark_, kOld))) {
      make_mark(folder);
    }
  }
}

TemporaryPlace::~TemporaryPlace() {
  std::error_code ignored;
  fs::remove_all(content_, ignored);
  if (!is_there(content_) && !is_there(beside(mark_, kOld))) {
    fs::remove(mark_, ignored);
  }
  ::close(lock_);  // last: until now it was no abandoned place
}

std::error_code TemporaryPlace::replace_folder() {
  std::error_code error;
#ifdef RENAME_EXCHANGE
  if (::renameat2(AT_FDCWD, content_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) == 0) {
    return error;  // the older one is the content now
  }
#endif
  const fs::path old = beside(mark_, kOld);
  fs::rename(target_, old, error);
  if (error) {
    return error;
  }
  fs::rename(content_, target_, error);
  std::error_code ignored;
  if (error) {
    fs::rename(old, target_, ignored);
  } else {
    fs::remove_all(old, ignored);
  }
  return error;
}

bool is_in_memory(const fs::path& folder) {
  struct statfs system{};
  if (::statfs(folder.c_str(), &system) != 0) {
    return false;
  }
  const auto type = static_cast<std::uint64_t>(system.f_type) & 0xFFFFFFFFU;
  return type == TMPFS_MAGIC || type == RAMFS_MAGIC;
}

const fs::path& Workspace::folder() {
  if (place_) {
    return place_->path();
  }
  std::vector<fs::path> candidates;
  if (!output_.empty()) {
    candidates.push_back(folder_of(follow_links(without_slash(output_), true)));
  }
  if (const char* wish = std::getenv("TMPDIR"); wish != nullptr && *wish != '\0') {
    candidates.emplace_back(wish);
  }
  candidates.emplace_back("/var/tmp");
  candidates.emplace_back(".");
  const auto fits = [](const fs::path& folder) {
    std::error_code error;
    return fs::is_directory(folder, error) && ::access(folder.c_str(), W_OK | X_OK) == 0 && !is_in_memory(folder);
  };
  const auto found = std::ranges::find_if(candidates, fits);
  if (found == candidates.end()) {
    throw Error(ErrorCode::kIo, "temporary files",
                "no folder on a disk can be written: tried " +
                    join(candidates, ", ", [](const fs::path& candidate) { return candidate.string(); }),
                "set TMPDIR to one");
  }
  auto place = std::make_unique<TemporaryPlace>(*found, "temporary files");
  if (::mkdir(place->path().c_str(), S_IRWXU) != 0) {
    fail(*found, "can't create a temporary folder", errno);
  }
  place_ = std::move(place);
  return place_->path();
}

void check_output_name(const fs::path& output) {
  struct stat status{};
  const bool is_too_long = ::lstat(output.c_str(), &status) != 0 && errno == ENAMETOOLONG;
  if (is_too_long || ::access((folder_of(output) / ".").c_str(), W_OK | X_OK) != 0) {
    fail(output, "can't create", errno);
  }
}

namespace {

// What may be written but not read can't be opened, and some file systems do not sync folders.
void sync(const fs::path& path, int flags, const fs::path& output) {
  const Descriptor opened(::open(path.c_str(), O_RDONLY | O_CLOEXEC | flags));
  if (opened.get() >= 0 && ::fsync(opened.get()) != 0 && errno != EINVAL && errno != EROFS && errno != ENOTSUP) {
    fail(output, "can't write", errno);
  }
}

}  // namespace

void sync_file(const fs::path& file, const fs::path& output) { sync(file, O_NOFOLLOW, output); }

void sync_folder(const fs::path& folder, const fs::path& output) { sync(folder, O_DIRECTORY, output); }

}  // namespace diffulex_edge
