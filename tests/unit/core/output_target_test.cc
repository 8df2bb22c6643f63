// What OutputFile makes of the names that it is given, and of failures after it began.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <span>
#include <thread>

#include "core/output_file.h"
#include "support/expect_error.h"
#include "support/file_tree.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;
using testing::names_in;

std::span<const std::byte> bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

void write_whole(const fs::path& target, std::string_view text) {
  OutputFile file(target, static_cast<std::int64_t>(text.size()));
  file.write(0, bytes(text));
  file.commit();
}

TEST(OutputTarget, IsNotVisibleBeforeCommit) {
  const testing::TemporaryFolder folder;
  OutputFile file(folder / "x", 3);
  file.write(0, bytes("new"));
  EXPECT_FALSE(fs::exists(folder / "x"));
  file.commit();
  EXPECT_EQ(testing::read_file(folder / "x"), "new");
}

TEST(OutputTarget, FollowsAChainOfLinksToItsEnd) {
  const testing::TemporaryFolder folder;
  fs::create_directory(folder / "deep");
  testing::write_file(folder / "deep/real", "old");
  fs::create_symlink("real", folder / "deep/second");
  fs::create_symlink("deep/second", folder / "first");
  write_whole(folder / "first", "new");
  EXPECT_TRUE(fs::is_symlink(folder / "first"));
  EXPECT_TRUE(fs::is_symlink(folder / "deep/second"));
  EXPECT_FALSE(fs::is_symlink(folder / "deep/real"));
  EXPECT_EQ(testing::read_file(folder / "deep/real"), "new");
}

TEST(OutputTarget, RefusesLinksToFoldersDevicesAndThemselves) {
  const testing::TemporaryFolder folder;
  fs::create_directory(folder / "deep");
  fs::create_symlink("deep", folder / "to_folder");
  fs::create_symlink("/dev/null", folder / "to_device");
  fs::create_symlink("loop", folder / "loop");
  testing::expect_error(ErrorCode::kIo, {"deep", "is a folder"}, [&] { OutputFile(folder / "to_folder", 1); });
  testing::expect_error(ErrorCode::kIo, {"not a regular file"}, [&] { OutputFile(folder / "to_device", 1); });
  testing::expect_error(ErrorCode::kIo, {"loop"}, [&] { write_whole(folder / "loop", "x"); });
  EXPECT_TRUE(fs::is_symlink(folder / "loop"));
}

TEST(OutputTarget, RefusesANamedPipe) {
  const testing::TemporaryFolder folder;
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  testing::expect_error(ErrorCode::kIo, {"pipe", "not a regular file"}, [&] { OutputFile(folder / "pipe", 1); });
}

TEST(OutputTarget, RefusesAFolderThatTakesNoFiles) {
  testing::expect_error(ErrorCode::kIo, {"/proc/diffulex-edge-test"},
                        [] { OutputFile("/proc/diffulex-edge-test", 1); });
  const testing::TemporaryFolder folder;
  testing::write_file(folder / "plain", "x");
  testing::expect_error(ErrorCode::kIo, {"plain/x"}, [&] { OutputFile(folder / "plain/x", 1); });
  if (::geteuid() != 0) {  // root may write anywhere
    fs::create_directory(folder / "locked");
    fs::permissions(folder / "locked", fs::perms::owner_read | fs::perms::owner_exec);
    testing::expect_error(ErrorCode::kIo, {"can't create"}, [&] { OutputFile(folder / "locked/x", 1); });
  }
}

TEST(OutputTarget, LeavesNothingWhereCommitFails) {
  const testing::TemporaryFolder folder;
  {
    OutputFile file(folder / "x", 3);
    file.write(0, bytes("new"));
    fs::create_directory(folder / "x");  // came into being meanwhile
    testing::expect_error(ErrorCode::kIo, {"can't give the file its name"}, [&] { file.commit(); });
  }
  EXPECT_EQ(names_in(folder.path()), testing::Names{"x"});
  EXPECT_TRUE(fs::is_directory(folder / "x"));
}

TEST(OutputTarget, RefusesANameThatIsTooLong) {
  const testing::TemporaryFolder folder;
  testing::expect_error(ErrorCode::kIo, {}, [&] { write_whole(folder / std::string(300, 'n'), "x"); });
  EXPECT_TRUE(names_in(folder.path()).empty());
}

TEST(OutputTarget, MayBeAnEmptyFile) {
  const testing::TemporaryFolder folder;
  write_whole(folder / "x", "");
  EXPECT_EQ(fs::file_size(folder / "x"), 0U);
}

TEST(OutputTarget, StopsFlushingWhenAsked) {
  const testing::TemporaryFolder folder;
  OutputFile file(folder / "x", 3);
  file.write(0, bytes("new"));
  std::stop_source source;
  EXPECT_NO_THROW(file.flush(source.get_token()));
  source.request_stop();
  testing::expect_error(ErrorCode::kCancelled, {"stopped"}, [&] { file.flush(source.get_token()); });
}

TEST(OutputTarget, TakesWritesFromSeveralThreads) {
  constexpr std::int64_t kPiece = 50'000;
  const testing::TemporaryFolder folder;
  OutputFile file(folder / "x", 4 * kPiece);
  {
    std::vector<std::jthread> threads;
    for (std::int64_t i = 0; i < 4; ++i) {
      threads.emplace_back(
          [&file, i] { file.write(i * kPiece, bytes(std::string(kPiece, static_cast<char>('a' + i)))); });
    }
  }
  file.commit();
  const std::string whole = testing::read_file(folder / "x");
  ASSERT_EQ(whole.size(), std::size_t{4 * kPiece});
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(whole.substr(i * kPiece, kPiece), std::string(kPiece, static_cast<char>('a' + i)));
  }
}

TEST(OutputTarget, IsWrittenWithinItsSizeOnly) {
  const testing::TemporaryFolder folder;
  OutputFile file(folder / "x", 4);
  EXPECT_NO_THROW(file.write(0, bytes("abcd")));
  EXPECT_NO_THROW(file.write(4, {}));
  testing::expect_error(ErrorCode::kInternal, {"outside"}, [&] { file.write(4, bytes("e")); });
  testing::expect_error(ErrorCode::kInternal, {"outside"}, [&] { file.write(0, bytes("abcde")); });
  testing::expect_error(ErrorCode::kInternal, {"outside"}, [&] { file.write(5, {}); });
  file.commit();
  EXPECT_EQ(testing::read_file(folder / "x"), "abcd");
}

}  // namespace
}  // namespace diffulex_edge
