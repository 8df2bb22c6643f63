// What a committed file looks like, and who wins where two meet.

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "core/output_file.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;

std::span<const std::byte> bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

TEST(OutputFileCommit, HasTheReservedSizeAndZerosWhereNothingWasWritten) {
  const testing::TemporaryFolder folder;
  OutputFile file(folder / "x", 10);
  file.write(8, bytes("zz"));
  file.commit();
  EXPECT_EQ(testing::read_file(folder / "x"), std::string(8, '\0') + "zz");
}

TEST(OutputFileCommit, PermissionsFollowTheUmask) {
  const testing::TemporaryFolder folder;
  for (const unsigned mask : {0U, 027U, 077U}) {
    const mode_t old = ::umask(static_cast<mode_t>(mask));
    OutputFile(folder / "x", 0).commit();
    ::umask(old);
    EXPECT_EQ(fs::status(folder / "x").permissions(), static_cast<fs::perms>(0666U & ~mask));
  }
}

TEST(OutputFileCommit, SaysSoWhenItsFolderIsGone) {
  const testing::TemporaryFolder folder;
  fs::create_directory(folder / "out");
  OutputFile file(folder / "out/x", 1);
  fs::remove(folder / "out");
  testing::expect_error(ErrorCode::kIo, {"x", "can't give the file its name"}, [&] { file.commit(); });
}

TEST(OutputFileCommit, TheLastOfTwoWritersWins) {
  const testing::TemporaryFolder folder;
  OutputFile first(folder / "x", 1);
  OutputFile second(folder / "x", 1);
  first.write(0, bytes("1"));
  second.write(0, bytes("2"));
  second.commit();
  first.commit();
  EXPECT_EQ(testing::read_file(folder / "x"), "1");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 1);
}

}  // namespace
}  // namespace diffulex_edge
