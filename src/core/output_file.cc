#include "core/output_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "core/links.h"
#include "core/mapped_file.h"
#include "core/unnamed_file.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

constexpr mode_t kMode = S_IRUSR | S_IWUSR | S_IRGRP | S_IWGRP | S_IROTH | S_IWOTH;  // less the umask

}  // namespace

void OutputFile::check(const std::filesystem::path& target) {
  std::error_code error;
  const auto status = std::filesystem::status(target, error);  // of what a link leads to, which may have no name
  if (std::filesystem::is_directory(status)) {
    throw Error(ErrorCode::kIo, follow_links(target, false).string(), "is a folder", "name another file");
  }
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) {
    throw Error(ErrorCode::kIo, target.string(),
                "is not a regular file, and a file is written in many places at once and appears when it is complete",
                "name another file, and copy that");
  }
  check_output_name(follow_links(target, false));
}

// The file behind a link is replaced, or made, and not the link.
OutputFile::OutputFile(const std::filesystem::path& target, std::int64_t size)
    : target_(follow_links(target, false)), size_(size) {
  check(target);
  open_file();
  const int allocate_error = size_ > 0 ? ::posix_fallocate(descriptor_, 0, size_) : 0;
  if (allocate_error != 0 && allocate_error != EOPNOTSUPP && allocate_error != EINVAL) {
    ::close(descriptor_);
    fail("can't reserve space", allocate_error);
  }
}

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) {
    ::close(descriptor_);
  }
}

void OutputFile::fail(const char* action, int error_number) const {
  std::string advice;
  if (error_number == ENOSPC || error_number == EFBIG) {
    advice = std::to_string(size_) + " bytes are needed";
  }
  if (error_number == EFBIG) {
    advice += ", more than the file system or `ulimit -f` allows";
  }
  throw Error(ErrorCode::kIo, target_.string(), std::string(action) + ": " + std::strerror(error_number), advice);
}

void OutputFile::open_file() {
  remove_abandoned_places(folder_of(target_));
  descriptor_ = open_unnamed(folder_of(target_), kMode);
  if (descriptor_ < 0) {
    place_ = std::make_unique<TemporaryPlace>(folder_of(target_), target_.filename());
    descriptor_ = ::open(place_->path().c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, kMode);
    if (descriptor_ < 0) {
      fail("can't create", errno);
    }
  }
}

void OutputFile::write(std::int64_t offset, std::span<const std::byte> bytes) {
  if (offset < 0 || static_cast<std::int64_t>(bytes.size()) > size_ - offset) {
    throw Error(ErrorCode::kInternal, target_.string(), "a write lies outside the planned file");
  }
  while (!bytes.empty()) {
    const ssize_t count = ::pwrite(descriptor_, bytes.data(), bytes.size(), offset);
    if (count < 0) {
      // The kernel does not see to a source that can no longer be read; touching it does, and its reader will say so.
      if (errno == EFAULT && MappedFile::contains(bytes.data())) {
        static_cast<void>(*static_cast<const volatile std::byte*>(bytes.data()));
        continue;
      }
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

void OutputFile::give_name() {
  if (!place_) {
    if (link_unnamed(descriptor_, target_)) {
      return;
    }
    // It can't replace an existing file, but rename can.
    if (errno != EEXIST) {
      fail("can't give the file its name", errno);
    }
    place_ = std::make_unique<TemporaryPlace>(folder_of(target_), target_.filename());
    if (!link_unnamed(descriptor_, place_->path())) {
      fail("can't give the file its name", errno);
    }
  }
  if (::rename(place_->path().c_str(), target_.c_str()) != 0) {
    fail("can't give the file its name", errno);
  }
}

void OutputFile::commit() {
  if (::fdatasync(descriptor_) != 0) {
    fail("can't write", errno);
  }
  give_name();
  ::close(descriptor_);
  descriptor_ = -1;
  place_.reset();
  sync_folder(folder_of(target_), target_);
}

void write_file(const std::filesystem::path& target, std::string_view text) {
  OutputFile file(target, static_cast<std::int64_t>(text.size()));
  file.write(0, std::as_bytes(std::span(text)));
  file.commit();
}

}  // namespace diffulex_edge
