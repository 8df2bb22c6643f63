// Places of living owners stay, those of killed ones go, and nothing goes that this library did not make.

#include "core/temporary_place.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): POSIX, kill
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>

#include "core/output_file.h"
#include "core/output_folder.h"
#include "support/expect_error.h"
#include "support/file_tree.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;
using testing::Names;
using testing::names_in;

// Runs `work` in another process, which is then killed as it stands.
void run_and_kill(const std::function<void()>& work) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    work();
    ::raise(SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

// Leaves an abandoned place with a folder of one file in it; returns the path of its mark.
fs::path leave_place(const fs::path& folder) {
  run_and_kill([&] {
    auto* place = new TemporaryPlace(folder, "x");  // NOLINT(*-owning-memory): never deleted
    fs::create_directory(place->path());
    testing::write_file(place->path() / "file", "left");
  });
  const Names names = names_in(folder);
  EXPECT_EQ(names.size(), 2U);
  EXPECT_EQ(names.at(0) + ".part", names.at(1));
  return folder / names.at(0);
}

class TemporaryPlaces : public ::testing::Test {
 protected:
  testing::TemporaryFolder folder_;
};

TEST_F(TemporaryPlaces, GoWithWhatTheirOwnerMade) {
  {
    const TemporaryPlace first(folder_.path(), "x");
    const TemporaryPlace second(folder_.path(), "x");
    EXPECT_NE(first.path(), second.path());
    EXPECT_EQ(first.path().parent_path(), folder_.path());
    fs::create_directory(first.path());
    testing::write_file(first.path() / "file", "");
    testing::write_file(second.path(), "");
    EXPECT_EQ(names_in(folder_.path()).size(), 4U);
  }
  EXPECT_EQ(names_in(folder_.path()), Names{});
}

TEST_F(TemporaryPlaces, OfKilledOwnersGoWithTheNextOutputBesideThem) {
  const auto check = [&](const std::function<void()>& next) {
    leave_place(folder_.path());
    next();
    EXPECT_EQ(names_in(folder_.path()), Names{});
  };
  check([&] { remove_abandoned_places(folder_.path()); });
  check([&] { const OutputFile file(folder_ / "other", 1); });
  check([&] { const OutputFolder other(folder_ / "other"); });
  check([&] { Workspace(folder_ / "other").folder(); });
}

TEST_F(TemporaryPlaces, OfLivingOwnersStay) {
  const TemporaryPlace place(folder_.path(), "x");
  testing::write_file(place.path(), "mine");
  remove_abandoned_places(folder_.path());  // in this process
  run_and_kill([&] { remove_abandoned_places(folder_.path()); });
  EXPECT_EQ(testing::read_file(place.path()), "mine");
  EXPECT_EQ(names_in(folder_.path()).size(), 2U);
}

// Names as ours, but no mark, or no mark of that name.
TEST_F(TemporaryPlaces, LeaveAloneWhatOnlyHasTheirName) {
  const std::string id(32, 'a');
  const std::string other(32, 'b');
  testing::write_file(folder_ / (".diffulex-edge-" + id), "notes");
  fs::create_directory(folder_ / (".diffulex-edge-" + id + ".part"));
  testing::write_file(folder_ / (".diffulex-edge-" + id + ".part/file"), "notes");
  testing::write_file(folder_ / (".diffulex-edge-" + other), "");
  fs::create_directory(folder_ / (".diffulex-edge-" + std::string(32, 'c')));
  fs::create_symlink("nowhere", folder_ / (".diffulex-edge-" + std::string(32, 'd')));
  testing::write_file(folder_ / ".diffulex-edge-1-0", "of an earlier version");
  const fs::path mark = leave_place(folder_ / (".diffulex-edge-" + std::string(32, 'c')));
  fs::copy_file(mark, folder_ / (".diffulex-edge-" + std::string(32, 'e')));
  testing::write_file(folder_ / (".diffulex-edge-" + std::string(32, 'e') + ".part"), "notes");
  const Names before = names_in(folder_.path());
  OutputFile(folder_ / "x", 0).commit();
  Names after = names_in(folder_.path());
  ASSERT_EQ(std::erase(after, "x"), 1U);
  EXPECT_EQ(after, before);
  EXPECT_EQ(testing::read_file(folder_ / (".diffulex-edge-" + id + ".part/file")), "notes");
}

// What the parts of an abandoned place lead to is not followed.
TEST_F(TemporaryPlaces, DoNotFollowLinks) {
  fs::create_directory(folder_ / "kept");
  testing::write_file(folder_ / "kept/file", "kept");
  fs::create_directory(folder_ / "out");
  const fs::path mark = leave_place(folder_ / "out");
  const fs::path content = fs::path(mark) += ".part";
  fs::create_directory_symlink(folder_ / "kept", content / "link");
  remove_abandoned_places(folder_ / "out");
  EXPECT_EQ(names_in(folder_ / "out"), Names{});
  EXPECT_EQ(testing::read_file(folder_ / "kept/file"), "kept");
}

// Where two names can't be exchanged, the older folder is aside for a moment. A kill then must not cost it.
TEST_F(TemporaryPlaces, GiveAnOldFolderBackThatWasAsideWhenTheirOwnerDied) {
  const fs::path mark = leave_place(folder_.path());
  const fs::path old = fs::path(mark) += ".old";
  fs::create_directory(old);
  testing::write_file(old / "file", "old");
  remove_abandoned_places(folder_.path());
  EXPECT_EQ(names_in(folder_.path()), Names{"x"});
  EXPECT_EQ(testing::read_file(folder_ / "x/file"), "old");

  const fs::path second = folder_ / "second";
  fs::create_directory(second);
  const fs::path finished = leave_place(second);  // the new one has its name already
  fs::rename(fs::path(finished) += ".part", second / "x");
  fs::create_directory(fs::path(finished) += ".old");
  remove_abandoned_places(second);
  EXPECT_EQ(names_in(second), Names{"x"});
  EXPECT_EQ(testing::read_file(second / "x/file"), "left");
}

TEST_F(TemporaryPlaces, ReplaceAFolderAsAWhole) {
  fs::create_directory(folder_ / "x");
  testing::write_file(folder_ / "x/old", "");
  {
    TemporaryPlace place(folder_.path(), "x");
    fs::create_directory(place.path());
    testing::write_file(place.path() / "new", "");
    EXPECT_FALSE(place.replace_folder());
  }
  EXPECT_EQ(names_in(folder_.path()), Names{"x"});
  EXPECT_EQ(names_in(folder_ / "x"), Names{"new"});
}

TEST_F(TemporaryPlaces, SayWhereTheyCanNotBe) {
  testing::expect_error(ErrorCode::kIo, {(folder_ / "none/x").string() + ": can't create"},
                        [&] { TemporaryPlace(folder_ / "none", "x"); });
  testing::expect_error(ErrorCode::kIo, {"File name too long"},
                        [&] { TemporaryPlace(folder_.path(), std::string(300, 'n')); });
}

class Workspaces : public TemporaryPlaces {
 protected:
  void SetUp() override {
    const char* wish = std::getenv("TMPDIR");
    before_ = wish == nullptr ? "" : wish;
  }
  void TearDown() override { before_.empty() ? ::unsetenv("TMPDIR") : ::setenv("TMPDIR", before_.c_str(), 1); }
  std::string before_;
};

TEST_F(Workspaces, AreBesideTheOutputAndMadeWhenAskedFor) {
  {
    Workspace workspace(folder_ / "x.pte");
    EXPECT_EQ(names_in(folder_.path()), Names{});
    const fs::path made = workspace.folder();
    EXPECT_EQ(made.parent_path(), folder_.path());
    EXPECT_TRUE(fs::is_directory(made));
    EXPECT_EQ(workspace.folder(), made);
    testing::write_file(made / "file", "");
  }
  EXPECT_EQ(names_in(folder_.path()), Names{});
}

TEST_F(Workspaces, AreWhereTmpdirSaysWithoutAnOutput) {
  ::setenv("TMPDIR", folder_.path().c_str(), 1);
  EXPECT_EQ(Workspace().folder().parent_path(), folder_.path());
}

TEST_F(Workspaces, AreNotInMemory) {
  const fs::path memory = "/dev/shm";
  if (!is_in_memory(memory)) {
    GTEST_SKIP() << "there is no file system in memory";
  }
  EXPECT_FALSE(is_in_memory(folder_.path()));
  ::setenv("TMPDIR", folder_.path().c_str(), 1);
  EXPECT_EQ(Workspace(memory / "x.pte").folder().parent_path(), folder_.path());
  ::setenv("TMPDIR", memory.c_str(), 1);
  EXPECT_FALSE(is_in_memory(Workspace().folder()));
}

// A leftover of the file's own hidden name made the commit fail after all the work.
TEST_F(TemporaryPlaces, LeftoversOfEarlierVersionsAreNoObstacle) {
  for (int i = 0; i < 100; ++i) {
    testing::write_file(folder_ / (".diffulex-edge-" + std::to_string(::getpid()) + "-" + std::to_string(i)), "");
  }
  testing::write_file(folder_ / "x", "old");
  OutputFile file(folder_ / "x", 3);
  file.write(0, std::as_bytes(std::span("new", 3)));
  file.commit();
  EXPECT_EQ(testing::read_file(folder_ / "x"), "new");
}

}  // namespace
}  // namespace diffulex_edge
