#include "core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <functional>
#include <iterator>
#include <map>
#include <mutex>
#include <shared_mutex>

#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const std::string& what) {
  throw Error(ErrorCode::kBadFile, path.string(), what);
}

// Where files are mapped, from any thread.
class Mappings {
 public:
  void add(const std::byte* data, std::size_t size) {
    const std::unique_lock lock(mutex_);
    sizes_.emplace(data, size);
  }
  void remove(const std::byte* data) {
    const std::unique_lock lock(mutex_);
    sizes_.erase(data);
  }
  bool contain(const std::byte* data) const {
    const std::shared_lock lock(mutex_);
    const auto behind = sizes_.upper_bound(data);
    if (behind == sizes_.begin()) {
      return false;
    }
    const auto& [begin, size] = *std::prev(behind);
    return static_cast<std::size_t>(data - begin) < size;
  }

 private:
  mutable std::shared_mutex mutex_;
  std::map<const std::byte*, std::size_t, std::less<>> sizes_;
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
    fail(path, std::string("can't open: ") + std::strerror(errno));
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
  mappings().add(data_, size_);
}

MappedFile::~MappedFile() {
  mappings().remove(data_);
  ::munmap(const_cast<std::byte*>(data_), size_);  // NOLINT(cppcoreguidelines-pro-type-const-cast)
}

namespace {

void advise(std::span<const std::byte> range, int advice) {
  if (!mappings().contain(range.data())) {
    return;
  }
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<std::uintptr_t>(range.data());
  const std::uintptr_t begin = address / page * page;
  auto* start = reinterpret_cast<void*>(begin);  // NOLINT(performance-no-int-to-ptr)
  ::madvise(start, address + range.size() - begin, advice);
}

}  // namespace

void MappedFile::will_need(std::span<const std::byte> range) { advise(range, MADV_WILLNEED); }

void MappedFile::release(std::span<const std::byte> range) { advise(range, MADV_DONTNEED); }

}  // namespace diffulex_edge
