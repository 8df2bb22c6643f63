#include "core/output_folder.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/expect_error.h"
#include "support/file_tree.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;
using testing::Names;
using testing::names_in;

bool always(const fs::path& /*folder*/) { return true; }

// A folder `target` with the one file "file".
void write_whole(const fs::path& target, const std::string& text, const OutputFolder::MayReplace& may_replace = {}) {
  OutputFolder folder(target, may_replace);
  testing::write_file(folder.path() / "file", text);
  folder.commit();
}

class OutputFolders : public ::testing::Test {
 protected:
  void make_old() const {
    fs::create_directory(folder_ / "x");
    testing::write_file(folder_ / "x/old", "old");
  }
  testing::TemporaryFolder folder_;
};

TEST_F(OutputFolders, AppearOnCommitOnly) {
  OutputFolder out(folder_ / "x");
  testing::write_file(out.path() / "file", "new");
  EXPECT_FALSE(fs::exists(folder_ / "x"));
  EXPECT_TRUE(names_in(folder_.path()).at(0).starts_with("."));
  out.commit();
  EXPECT_EQ(names_in(folder_.path()), Names{"x"});
  EXPECT_EQ(testing::read_file(folder_ / "x/file"), "new");
}

TEST_F(OutputFolders, LeaveNothingWithoutCommit) {
  {
    const OutputFolder out(folder_ / "x");
    out.make_folder("a/b");
    testing::write_file(out.path() / "a/b/file", "new");
  }
  EXPECT_EQ(names_in(folder_.path()), Names{});
  make_old();
  {
    const OutputFolder out(folder_ / "x", always);
  }
  EXPECT_EQ(names_in(folder_.path()), Names{"x"});
  EXPECT_EQ(testing::read_file(folder_ / "x/old"), "old");
}

TEST_F(OutputFolders, HaveFoldersInside) {
  OutputFolder out(folder_ / "x");
  const fs::path inner = out.make_folder("a/b");
  EXPECT_EQ(inner, out.path() / "a/b");
  EXPECT_EQ(out.make_folder("a/b"), inner);
  testing::write_file(out.path() / "plain", "");
  testing::expect_error(ErrorCode::kIo, {"x/plain/c", "can't create"}, [&] { out.make_folder("plain/c"); });
  out.commit();
  EXPECT_TRUE(fs::is_directory(folder_ / "x/a/b"));
}

TEST_F(OutputFolders, TakeThePlaceOfAnEmptyFolder) {
  fs::create_directory(folder_ / "x");
  write_whole(folder_ / "x", "new");
  EXPECT_EQ(testing::read_file(folder_ / "x/file"), "new");
  EXPECT_EQ(names_in(folder_.path()), Names{"x"});
}

TEST_F(OutputFolders, RefuseFilesAndFoldersWithSomethingInThem) {
  make_old();
  testing::write_file(folder_ / "plain", "kept");
  ASSERT_EQ(::mkfifo((folder_ / "pipe").c_str(), 0600), 0);
  int asked = 0;
  const auto never = [&](const fs::path& old) {
    EXPECT_EQ(old, folder_ / "x");
    ++asked;
    return false;
  };
  for (const char* name : {"x", "plain", "pipe"}) {
    const std::string path = (folder_ / name).string();
    testing::expect_error(ErrorCode::kIo, {path + ": exists and is not an empty folder (name another folder)"},
                          [&] { OutputFolder{folder_ / name}; });
    testing::expect_error(ErrorCode::kIo, {path}, [&] { OutputFolder(folder_ / name, never); });
  }
  EXPECT_EQ(asked, 1);  // nobody is asked about what is no folder
  testing::expect_error(ErrorCode::kIo, {"plain"}, [&] { OutputFolder(folder_ / "plain", always); });
  EXPECT_EQ(names_in(folder_.path()), (Names{"pipe", "plain", "x"}));
  EXPECT_EQ(testing::read_file(folder_ / "plain"), "kept");
  EXPECT_EQ(testing::read_file(folder_ / "x/old"), "old");
}

TEST_F(OutputFolders, ReplaceAsAWholeWhereTheyMay) {
  make_old();
  OutputFolder out(folder_ / "x", always);
  testing::write_file(out.path() / "file", "new");
  EXPECT_EQ(names_in(folder_ / "x"), Names{"old"});
  out.commit();
  EXPECT_EQ(names_in(folder_ / "x"), Names{"file"});
  EXPECT_EQ(names_in(folder_.path()), Names{"x"});
}

TEST_F(OutputFolders, PutTheOldOneBackWhereCommitFails) {
  make_old();
  {
    OutputFolder out(folder_ / "x", always);
    fs::remove_all(out.path());  // someone else did
    testing::expect_error(ErrorCode::kIo, {"x: can't give the folder its name"}, [&] { out.commit(); });
  }
  EXPECT_EQ(names_in(folder_.path()), Names{"x"});
  EXPECT_EQ(names_in(folder_ / "x"), Names{"old"});
}

TEST_F(OutputFolders, DoNotReplaceWhatCameMeanwhile) {
  {
    OutputFolder file(folder_ / "f", always);
    OutputFolder full(folder_ / "x");
    testing::write_file(folder_ / "f", "kept");
    make_old();
    testing::expect_error(ErrorCode::kIo, {"f: exists"}, [&] { file.commit(); });
    testing::expect_error(ErrorCode::kIo, {"x: exists"}, [&] { full.commit(); });
  }
  EXPECT_EQ(names_in(folder_.path()), (Names{"f", "x"}));
  EXPECT_EQ(testing::read_file(folder_ / "f"), "kept");
  EXPECT_EQ(names_in(folder_ / "x"), Names{"old"});
}

TEST_F(OutputFolders, MayBeNamedWithASlashAtTheEnd) {
  write_whole(folder_ / "x/", "one");
  EXPECT_EQ(testing::read_file(folder_ / "x/file"), "one");
  write_whole(folder_ / "x/", "two", always);
  EXPECT_EQ(testing::read_file(folder_ / "x/file"), "two");
  EXPECT_EQ(names_in(folder_.path()), Names{"x"});
  testing::expect_error(ErrorCode::kIo, {"x: exists"}, [&] { OutputFolder{folder_ / "x/"}; });
}

TEST_F(OutputFolders, MayBeNamedRelativeToTheCurrentFolder) {
  const fs::path before = fs::current_path();
  fs::current_path(folder_.path());
  write_whole("x", "new");
  fs::current_path(before);
  EXPECT_EQ(testing::read_file(folder_ / "x/file"), "new");
  EXPECT_EQ(names_in(folder_.path()), Names{"x"});
}

TEST_F(OutputFolders, NeedAFolderToBeIn) {
  testing::write_file(folder_ / "plain", "");
  testing::expect_error(ErrorCode::kIo, {(folder_ / "none/x").string() + ": can't create: No such file or directory"},
                        [&] { OutputFolder{folder_ / "none/x"}; });
  testing::expect_error(ErrorCode::kIo, {"plain/x: can't create: Not a directory"},
                        [&] { OutputFolder{folder_ / "plain/x"}; });
  testing::expect_error(ErrorCode::kIo, {"can't create: File name too long"},
                        [&] { OutputFolder{folder_ / std::string(300, 'n')}; });
  EXPECT_EQ(names_in(folder_.path()), Names{"plain"});
}

// As OutputFile does: what a link names is made or replaced, and the link stays.
TEST_F(OutputFolders, FollowLinks) {
  fs::create_directories(folder_ / "deep/empty");
  fs::create_directories(folder_ / "deep/full");
  testing::write_file(folder_ / "deep/full/old", "old");
  for (const char* name : {"empty", "full", "new"}) {
    fs::create_directory_symlink(name, folder_ / ("deep/to_" + std::string(name)));
    fs::create_directory_symlink("deep/to_" + std::string(name), folder_ / name);
    write_whole(folder_ / name, name, always);
    EXPECT_TRUE(fs::is_symlink(folder_ / name)) << name;
    EXPECT_TRUE(fs::is_symlink(folder_ / ("deep/to_" + std::string(name)))) << name;
    EXPECT_FALSE(fs::is_symlink(folder_ / "deep" / name)) << name;
    EXPECT_EQ(names_in(folder_ / "deep" / name), Names{"file"}) << name;
    EXPECT_EQ(testing::read_file(folder_ / name / "file"), name);
  }
  EXPECT_EQ(names_in(folder_.path()), (Names{"deep", "empty", "full", "new"}));
  EXPECT_EQ(names_in(folder_ / "deep"), (Names{"empty", "full", "new", "to_empty", "to_full", "to_new"}));
}

TEST_F(OutputFolders, RefuseLinksToFilesAndThemselves) {
  testing::write_file(folder_ / "plain", "kept");
  fs::create_symlink("plain", folder_ / "to_file");
  fs::create_symlink("loop", folder_ / "loop");
  testing::expect_error(ErrorCode::kIo, {"plain", "is not an empty folder"},
                        [&] { OutputFolder(folder_ / "to_file", always); });
  testing::expect_error(ErrorCode::kIo, {"loop", "leads back to itself"},
                        [&] { OutputFolder(folder_ / "loop", always); });
  EXPECT_EQ(names_in(folder_.path()), (Names{"loop", "plain", "to_file"}));
}

TEST_F(OutputFolders, OfOneNameDoNotMeet) {
  OutputFolder first(folder_ / "x", always);
  OutputFolder second(folder_ / "x", always);
  EXPECT_NE(first.path(), second.path());
  testing::write_file(first.path() / "one", "");
  testing::write_file(second.path() / "two", "");
  first.commit();
  EXPECT_EQ(names_in(folder_ / "x"), Names{"one"});
  second.commit();
  EXPECT_EQ(names_in(folder_ / "x"), Names{"two"});
  EXPECT_EQ(names_in(folder_.path()), Names{"x"});
}

}  // namespace
}  // namespace diffulex_edge
