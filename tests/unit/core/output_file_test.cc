#include "core/output_file.h"

#include <gtest/gtest.h>

#include <span>

#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;

std::span<const std::byte> bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

std::size_t files_in(const fs::path& folder) {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

TEST(OutputFile, AppearsOnCommitAndReplacesTheOldFile) {
  const testing::TemporaryFolder folder;
  testing::write_file(folder / "x", "old");
  OutputFile file(folder / "x", 5);
  file.write(3, bytes("lo"));
  file.write(0, bytes("hel"));
  EXPECT_EQ(testing::read_file(folder / "x"), "old");
  file.commit();
  EXPECT_EQ(testing::read_file(folder / "x"), "hello");
  EXPECT_EQ(files_in(folder.path()), 1U);
}

TEST(OutputFile, LeavesNothingWithoutCommit) {
  const testing::TemporaryFolder folder;
  testing::write_file(folder / "x", "old");
  {
    OutputFile file(folder / "x", 5);
    file.write(0, bytes("hello"));
  }
  EXPECT_EQ(testing::read_file(folder / "x"), "old");
  EXPECT_EQ(files_in(folder.path()), 1U);
}

TEST(OutputFile, RefusesWhatIsNotAFile) {
  const testing::TemporaryFolder folder;
  testing::expect_error(ErrorCode::kIo, {"is a folder"}, [&] { OutputFile(folder.path(), 1); });
  testing::expect_error(ErrorCode::kIo, {"not a regular file"}, [&] { OutputFile("/dev/null", 1); });
  testing::expect_error(ErrorCode::kIo, {"can't create"}, [&] { OutputFile(folder / "absent/x", 1); });
}

TEST(OutputFile, ReplacesTheFileBehindALink) {
  const testing::TemporaryFolder folder;
  testing::write_file(folder / "real", "old");
  fs::create_symlink("real", folder / "link");
  OutputFile file(folder / "link", 3);
  file.write(0, bytes("new"));
  file.commit();
  EXPECT_TRUE(fs::is_symlink(folder / "link"));
  EXPECT_EQ(testing::read_file(folder / "real"), "new");
}

TEST(OutputFile, RefusesWritesOutsideItsSize) {
  const testing::TemporaryFolder folder;
  OutputFile file(folder / "x", 4);
  testing::expect_error(ErrorCode::kInternal, {"outside"}, [&] { file.write(2, bytes("abc")); });
  testing::expect_error(ErrorCode::kInternal, {"outside"}, [&] { file.write(-1, bytes("a")); });
}

TEST(OutputFile, SaysHowMuchSpaceIsMissing) {
  const testing::TemporaryFolder folder;
  testing::expect_error(ErrorCode::kIo, {"can't reserve space"}, [&] { OutputFile(folder / "x", INT64_MAX / 2); });
  EXPECT_EQ(files_in(folder.path()), 0U);
}

TEST(OutputFile, MakesTheFileBehindADanglingLink) {
  const testing::TemporaryFolder folder;
  fs::create_symlink("real", folder / "link");
  OutputFile(folder / "link", 0).commit();
  EXPECT_TRUE(fs::is_symlink(folder / "link"));
  EXPECT_TRUE(fs::exists(folder / "real"));
  fs::create_symlink("loop", folder / "loop");
  testing::expect_error(ErrorCode::kIo, {"loop", "leads back to itself"}, [&] { OutputFile(folder / "loop", 0); });
}

}  // namespace
}  // namespace diffulex_edge
