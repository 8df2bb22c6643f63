#include "core/output_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>

#include "core/links.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

std::filesystem::path hidden_name(const std::filesystem::path& target) {
  static std::atomic<unsigned> counter{0};
  return folder_of(target) / (".diffulex-edge-" + std::to_string(::getpid()) + "-" + std::to_string(counter++));
}

constexpr mode_t kMode = S_IRUSR | S_IWUSR | S_IRGRP | S_IWGRP | S_IROTH | S_IWOTH;  // less the umask

}  // namespace

// The file behind a link is replaced, or made, and not the link.
OutputFile::OutputFile(const std::filesystem::path& target, std::int64_t size)
    : target_(follow_links(target, false)), size_(size) {
  std::error_code error;
  const auto status = std::filesystem::status(target_, error);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) {
    const bool folder = std::filesystem::is_directory(status);
    throw Error(ErrorCode::kIo, target_.string(), folder ? "is a folder" : "is not a regular file",
                "name another file");
  }
#ifdef O_TMPFILE
  descriptor_ = ::open(folder_of(target_).c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, kMode);
  if (descriptor_ < 0 && errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT && errno != EINVAL) {
    fail("can't create", errno);
  }
#endif
  if (descriptor_ < 0) {
    open_named();
  }
  const int allocate_error = size_ > 0 ? ::posix_fallocate(descriptor_, 0, size_) : 0;
  if (allocate_error != 0 && allocate_error != EOPNOTSUPP && allocate_error != EINVAL) {
    const int error_number = allocate_error;
    ::close(descriptor_);
    if (!temporary_.empty()) {
      ::unlink(temporary_.c_str());
    }
    fail("can't reserve space", error_number);
  }
}

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) {
    ::close(descriptor_);
    if (!temporary_.empty()) {
      ::unlink(temporary_.c_str());
    }
  }
}

void OutputFile::fail(const char* action, int error_number) const {
  throw Error(ErrorCode::kIo, target_.string(), std::string(action) + ": " + std::strerror(error_number),
              error_number == ENOSPC ? std::to_string(size_) + " bytes are needed" : "");
}

void OutputFile::open_named() {
  temporary_ = hidden_name(target_);
  descriptor_ = ::open(temporary_.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, kMode);
  if (descriptor_ < 0) {
    fail("can't create", errno);
  }
}

void OutputFile::write(std::int64_t offset, std::span<const std::byte> bytes) {
  if (offset < 0 || static_cast<std::int64_t>(bytes.size()) > size_ - offset) {
    throw Error(ErrorCode::kInternal, target_.string(), "a write lies outside the planned file");
  }
  while (!bytes.empty()) {
    const ssize_t count = ::pwrite(descriptor_, bytes.data(), bytes.size(), offset);
    if (count < 0) {
      if (errno == EINTR) {
        continue;
      }
      fail("can't write", errno);
    }
    offset += count;
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
}

void OutputFile::flush(const std::stop_token& stop) const {
#ifdef __linux__
  constexpr std::int64_t kPiece = std::int64_t{32} << 20U;
  constexpr unsigned kWriteAndWait = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
  for (std::int64_t offset = 0; offset < size_; offset += kPiece) {
    if (stop.stop_requested()) {
      throw Error(ErrorCode::kCancelled, {}, "stopped");
    }
    // A hint: whether the data reached the disk is for commit's fdatasync to say.
    ::sync_file_range(descriptor_, offset, std::min(kPiece, size_ - offset), kWriteAndWait);
  }
#endif
  if (stop.stop_requested()) {
    throw Error(ErrorCode::kCancelled, {}, "stopped");
  }
}

void OutputFile::commit() {
  if (::fdatasync(descriptor_) != 0) {
    fail("can't write", errno);
  }
  if (temporary_.empty()) {
    // linkat can't replace an existing file: give the file a hidden name first, then rename.
    const std::string source = "/proc/self/fd/" + std::to_string(descriptor_);
    const std::filesystem::path name = hidden_name(target_);
    if (::linkat(AT_FDCWD, source.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) != 0) {
      fail("can't give the file its name", errno);
    }
    temporary_ = name;
  }
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) {
    fail("can't give the file its name", errno);
  }
  ::close(descriptor_);
  descriptor_ = -1;
}

void write_file(const std::filesystem::path& target, std::string_view text) {
  OutputFile file(target, static_cast<std::int64_t>(text.size()));
  file.write(0, std::as_bytes(std::span(text)));
  file.commit();
}

}  // namespace diffulex_edge
