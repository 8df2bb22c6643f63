#include "core/mapped_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST(MappedFile, ShowsEveryByteEvenWhenTheNameIsGone) {
  const testing::TemporaryFolder folder;
  const std::string content("a\0b\n", 4);
  testing::write_file(folder / "x", content);
  const MappedFile file(folder / "x");
  std::filesystem::remove(folder / "x");
  EXPECT_EQ(text_of(file.bytes()), content);
  EXPECT_EQ(file.path(), folder / "x");
}

TEST(MappedFile, HintsOnAnyRangeChangeNoByte) {
  const testing::TemporaryFolder folder;
  std::string content;
  for (int i = 0; i < 50'000; ++i) {
    content += static_cast<char>(i * 31 % 251);
  }
  testing::write_file(folder / "x", content);
  const MappedFile file(folder / "x");
  for (const std::size_t begin : {0U, 1U, 4095U, 4096U, 49'999U}) {
    for (const std::size_t size : {0U, 1U, 4096U, 9000U}) {
      if (begin + size <= content.size()) {
        const auto range = file.bytes().subspan(begin, size);
        MappedFile::will_need(range);
        MappedFile::release(range);
        EXPECT_EQ(text_of(range), content.substr(begin, size));
        std::string copy(size, ' ');
        MappedFile::copy_alone(range, std::as_writable_bytes(std::span(copy)));
        EXPECT_EQ(copy, content.substr(begin, size));
      }
    }
  }
  MappedFile::release({});
  EXPECT_EQ(text_of(file.bytes()), content);
}

TEST(MappedFile, RefusesWhatStandsInForAFile) {
  const testing::TemporaryFolder folder;
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4096\n";
  testing::write_file(folder / "pointer", pointer);
  testing::expect_error(ErrorCode::kBadFile, {"pointer", "Git LFS", "git lfs pull"},
                        [&] { const MappedFile file(folder / "pointer"); });
  EXPECT_FALSE(MappedFile::contains(nullptr));
  testing::write_file(folder / "long", pointer + std::string(1024, ' '));
  testing::write_file(folder / "other", "version https://git-lfs.github.com/spec/v2\n");
  EXPECT_NO_THROW(MappedFile(folder / "long"));
  EXPECT_NO_THROW(MappedFile(folder / "other"));
  std::filesystem::create_symlink("../blobs/0123", folder / "dangling");
  testing::expect_error(ErrorCode::kBadFile, {"dangling", "../blobs/0123", "the download is incomplete"},
                        [&] { const MappedFile file(folder / "dangling"); });
}

// Pages of the heap that the system drops come back as zeros.
TEST(MappedFile, LeavesMemoryThatIsNoFileAlone) {
  const testing::TemporaryFolder folder;
  testing::write_file(folder / "x", std::string(10'000, 'x'));
  const MappedFile file(folder / "x");
  const std::vector<std::byte> memory(1U << 20U, std::byte{7});
  const std::span<const std::byte> range(memory);
  MappedFile::will_need(range);
  MappedFile::release(range);
  EXPECT_EQ(std::ranges::count(memory, std::byte{7}), 1 << 20);
  MappedFile::release(file.bytes());
  EXPECT_EQ(text_of(file.bytes()), std::string(10'000, 'x'));
}

TEST(MappedFile, RefusesWhatIsNotAReadableRegularFile) {
  const testing::TemporaryFolder folder;
  const auto expect_refused = [&](const std::string& name, const std::string& part) {
    testing::expect_error(ErrorCode::kBadFile, {name, part}, [&] { const MappedFile file(folder / name); });
  };
  expect_refused("absent", "No such file");
  testing::write_file(folder / "empty", "");
  expect_refused("empty", "empty");
  std::filesystem::create_directory(folder / "folder");
  expect_refused("folder", "not a regular file");
  std::filesystem::create_symlink("absent", folder / "dangling");
  expect_refused("dangling", "is a link to a file that is not there");
  std::filesystem::create_symlink("loop", folder / "loop");
  expect_refused("loop", "can't open");
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), S_IRUSR | S_IWUSR), 0);
  expect_refused("pipe", "not a regular file");  // without waiting for a writer
}

TEST(MappedFile, FollowsALinkToAFile) {
  const testing::TemporaryFolder folder;
  testing::write_file(folder / "blob", "x");
  std::filesystem::create_symlink("blob", folder / "link");
  EXPECT_EQ(text_of(MappedFile(folder / "link").bytes()), "x");
}

}  // namespace
}  // namespace diffulex_edge
