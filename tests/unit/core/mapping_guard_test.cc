// A file that is cut while it is mapped ends no process: what is gone reads as zeros, and its reader learns of it.

#include "core/mapping_guard.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): POSIX, sigaction
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "core/mapped_file.h"
#include "core/output_file.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kBytes = std::size_t{1} << 20U;

std::int64_t sum(std::span<const std::byte> bytes) {
  std::int64_t total = 0;
  for (const std::byte value : bytes) {
    total += std::to_integer<std::int64_t>(value);
  }
  return total;
}

// How a process ends by SIGBUS: AddressSanitizer's own handler reports it and exits with 1.
#if defined(__SANITIZE_ADDRESS__)
constexpr int kEndOfAFault = 1;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
constexpr int kEndOfAFault = 1;
#else
constexpr int kEndOfAFault = -SIGBUS;
#endif
#else
constexpr int kEndOfAFault = -SIGBUS;
#endif

class CutFiles : public ::testing::Test {
 protected:
  void SetUp() override { testing::write_file(folder_ / "x", std::string(kBytes, '\1')); }

  void expect_cut(const std::function<void()>& work) const {
    testing::expect_error(ErrorCode::kBadFile, {(folder_ / "x").string(), "was cut short", "copy it again"}, work);
  }

  testing::TemporaryFolder folder_;
};

// The exit code of `work` in another process, or minus the signal that ended it.
int run_in_child(const std::function<int()>& work) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::_exit(work());
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

// Address of a mapping whose file is gone, and which nobody guards.
const volatile char* unguarded(const fs::path& path) {
  testing::write_file(path, std::string(kBytes, '\1'));
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  void* address = ::mmap(nullptr, kBytes, PROT_READ, MAP_PRIVATE, descriptor, 0);
  ::close(descriptor);
  fs::resize_file(path, 0);
  return static_cast<const volatile char*>(address);
}

TEST_F(CutFiles, ReadAsZerosAndSaySo) {
  const MappedFile file(folder_ / "x");
  EXPECT_EQ(sum(file.bytes()), std::int64_t{kBytes});
  file.check();
  fs::resize_file(folder_ / "x", kBytes / 4);
  EXPECT_EQ(sum(file.bytes()), std::int64_t{kBytes / 4});
  expect_cut([&] { file.check(); });
  expect_cut([&] { MappedFile::check(file.bytes().data() + 5); });
  expect_cut([&] { MappedFile::release(file.bytes().first(1)); });
}

TEST_F(CutFiles, AreNoticedByEveryThreadAtOnce) {
  const MappedFile file(folder_ / "x");
  fs::resize_file(folder_ / "x", 0);
  std::array<std::int64_t, 8> sums{};
  {
    std::vector<std::jthread> threads;
    for (std::int64_t& result : sums) {
      threads.emplace_back([&] { result = sum(file.bytes()); });
    }
  }
  for (const std::int64_t result : sums) {
    EXPECT_EQ(result, 0);
  }
  expect_cut([&] { file.check(); });
}

TEST_F(CutFiles, DoNotSpoilOthers) {
  testing::write_file(folder_ / "y", std::string(kBytes, '\1'));
  const MappedFile other(folder_ / "y");
  {
    const MappedFile file(folder_ / "x");
    fs::resize_file(folder_ / "x", 0);
    EXPECT_EQ(sum(file.bytes()), 0);
  }
  EXPECT_EQ(sum(other.bytes()), std::int64_t{kBytes});
  other.check();
  testing::write_file(folder_ / "x", std::string(kBytes, '\1'));
  const MappedFile again(folder_ / "x");  // has the place of the first
  EXPECT_EQ(sum(again.bytes()), std::int64_t{kBytes});
  again.check();
}

// The kernel reads for write(2), and gives an error in place of a signal.
TEST_F(CutFiles, AreNoOutputErrorWhenTheyAreCopied) {
  const MappedFile file(folder_ / "x");
  fs::resize_file(folder_ / "x", kBytes / 4);
  OutputFile out(folder_ / "out", kBytes);
  out.write(0, file.bytes());
  expect_cut([&] { file.check(); });
}

TEST_F(CutFiles, OfOthersEndTheProcessAsBefore) {
  const int result = run_in_child([&] {
    const MappedFile file(folder_ / "x");
    return static_cast<int>(*unguarded(folder_ / "foreign"));
  });
  EXPECT_EQ(result, kEndOfAFault);
}

TEST_F(CutFiles, OfOthersGoToTheHandlerThatWasThere) {
  constexpr int kSeen = 77;
  const int result = run_in_child([&] {
    ::signal(SIGBUS, [](int) { ::_exit(kSeen); });
    const MappedFile file(folder_ / "x");
    fs::resize_file(folder_ / "x", 0);
    if (sum(file.bytes()) != 0) {
      return 1;
    }
    return static_cast<int>(*unguarded(folder_ / "foreign"));
  });
  EXPECT_EQ(result, kSeen);
}

// As Python's faulthandler does when it is enabled: it takes the handler's place, and gives it back when a fault comes.
TEST_F(CutFiles, AreNoticedBehindAHandlerThatCameLater) {
  const int result = run_in_child([&] {
    const MappedFile first(folder_ / "x");
    ::signal(SIGBUS, [](int) { ::_exit(1); });
    testing::write_file(folder_ / "y", std::string(kBytes, '\1'));
    const MappedFile second(folder_ / "y");  // puts the guard back
    fs::resize_file(folder_ / "y", 0);
    return sum(second.bytes()) == 0 ? 0 : 2;
  });
  EXPECT_EQ(result, 0);
}

TEST_F(CutFiles, ASignalThatSomebodySentIsNoFault) {
  const int result = run_in_child([&] {
    const MappedFile file(folder_ / "x");
    ::raise(SIGBUS);
    return 0;
  });
  EXPECT_EQ(result, kEndOfAFault);
}

}  // namespace
}  // namespace diffulex_edge
