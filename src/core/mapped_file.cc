#include "core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <functional>
#include <iterator>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <string_view>

#include "core/links.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const std::string& what) {
  throw Error(ErrorCode::kBadFile, path.string(), what);
}

// Git LFS's specification, version 1: a pointer is a text of less than 1024 bytes with this beginning.
bool is_lfs_pointer(std::span<const std::byte> bytes) {
  constexpr std::string_view kStart = "version https://git-lfs.github.com/spec/v1\n";
  constexpr std::size_t kMost = 1024;
  return bytes.size() < kMost && bytes.size() >= kStart.size() &&
         std::memcmp(bytes.data(), kStart.data(), kStart.size()) == 0;
}

// Where files are mapped, from any thread.
class Mappings {
 public:
  void add(const MappedFile& file) {
    const std::unique_lock lock(mutex_);
    files_.emplace(file.bytes().data(), &file);
  }
  void remove(const MappedFile& file) {
    const std::unique_lock lock(mutex_);
    files_.erase(file.bytes().data());
  }
  // The file whose mapping holds `data`; nullptr where none does.
  const MappedFile* find(const std::byte* data) const {
    const std::shared_lock lock(mutex_);
    const auto behind = files_.upper_bound(data);
    if (behind == files_.begin()) {
      return nullptr;
    }
    const auto& [begin, file] = *std::prev(behind);
    return static_cast<std::size_t>(data - begin) < file->bytes().size() ? file : nullptr;
  }

 private:
  mutable std::shared_mutex mutex_;
  std::map<const std::byte*, const MappedFile*, std::less<>> files_;
};

Mappings& mappings() {
  static Mappings instance;
  return instance;
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  // O_NONBLOCK: opening a named pipe must not wait for its writer.
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) {
    const std::string reason = std::strerror(errno);
    static_cast<void>(is_present(path));  // a link to nothing is named as such
    fail(path, "can't open: " + reason);
  }
  struct stat status{};
  if (::fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(descriptor);
    fail(path, "not a regular file");
  }
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ == 0) {
    ::close(descriptor);
    fail(path, "the file is empty");
  }
  const void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
  const int map_error = errno;
  ::close(descriptor);
  if (address == MAP_FAILED) {
    fail(path, std::string("can't map into memory: ") + std::strerror(map_error));
  }
  data_ = static_cast<const std::byte*>(address);
  guard_.emplace(address, size_);
  mappings().add(*this);
  if (is_lfs_pointer(bytes())) {
    unmap();
    throw Error(ErrorCode::kBadFile, path.string(), "is a pointer of Git LFS and not the file itself",
                "run `git lfs pull` in its folder");
  }
}

MappedFile::~MappedFile() { unmap(); }

void MappedFile::unmap() {
  mappings().remove(*this);
  guard_.reset();
  ::munmap(const_cast<std::byte*>(data_), size_);  // NOLINT(cppcoreguidelines-pro-type-const-cast)
}

void MappedFile::check() const {
  if (guard_ && guard_->is_broken()) {
    throw Error(ErrorCode::kBadFile, path_.string(), "was cut short while it was being read, or can't be read any more",
                "copy it again");
  }
}

void MappedFile::check(const std::byte* data) {
  if (const MappedFile* file = mappings().find(data)) {
    file->check();
  }
}

bool MappedFile::contains(const std::byte* data) { return mappings().find(data) != nullptr; }

namespace {

const MappedFile* advise(std::span<const std::byte> range, int advice) {
  const MappedFile* file = mappings().find(range.data());
  if (file == nullptr) {
    return nullptr;
  }
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<std::uintptr_t>(range.data());
  const std::uintptr_t begin = address / page * page;
  auto* start = reinterpret_cast<void*>(begin);  // NOLINT(performance-no-int-to-ptr)
  ::madvise(start, address + range.size() - begin, advice);
  return file;
}

}  // namespace

void MappedFile::will_need(std::span<const std::byte> range) { advise(range, MADV_WILLNEED); }

void MappedFile::release(std::span<const std::byte> range) {
  if (const MappedFile* file = advise(range, MADV_DONTNEED)) {
    file->check();
  }
}

void MappedFile::copy_alone(std::span<const std::byte> range, std::span<std::byte> target) {
  const MappedFile* file = mappings().find(range.data());
  if (file != nullptr) {
    will_need(range);  // these pages only, unlike a page fault
  }
  std::ranges::copy(range, target.begin());
  if (file != nullptr) {
    constexpr std::size_t kMappedAround = std::size_t{64} << 10U;
    const auto first = static_cast<std::size_t>(range.data() - file->data_);
    const std::size_t begin = first / kMappedAround * kMappedAround;
    const std::size_t end = std::min(first + range.size() + kMappedAround, file->size_);
    release(file->bytes().subspan(begin, end - begin));
  }
}

}  // namespace diffulex_edge
