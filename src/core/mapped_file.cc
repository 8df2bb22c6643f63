#include "core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const std::string& what) {
  throw Error(ErrorCode::kBadFile, path.string(), what);
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
}

MappedFile::~MappedFile() {
  ::munmap(const_cast<std::byte*>(data_), size_);  // NOLINT(cppcoreguidelines-pro-type-const-cast)
}

namespace {

void advise(std::span<const std::byte> range, int advice) {
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
