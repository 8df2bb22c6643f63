#include "core/child_process.h"

#include <gtest/gtest.h>

#include <chrono>
#include <csignal>

#include "support/expect_error.h"
#include "support/processes.h"

namespace diffulex_edge {
namespace {

using testing::comes_true;
using testing::expect_error;
using testing::is_running;
using testing::read_file;
using testing::TemporaryFolder;

ChildResult run_shell(const std::string& body, const std::stop_token& stop = {}, const ChildLimits& limits = {}) {
  return run_child({"/bin/sh", "-c", body}, stop, limits);
}

TEST(ChildProcess, ReturnsWhatWasPrintedAndTheExitCode) {
  const ChildResult result = run_shell("echo out; echo err >&2; exit 7");
  EXPECT_EQ(result.output, "out\n");
  EXPECT_EQ(result.errors, "err\n");
  EXPECT_EQ(result.exit_code, 7);
  EXPECT_EQ(result.signal, 0);
}

TEST(ChildProcess, TakesArgumentsAsTheyAreAndLooksInThePath) {
  EXPECT_EQ(run_child({"printf", "%s", "$HOME; * 'x'\n"}, {}).output, "$HOME; * 'x'\n");
}

TEST(ChildProcess, HasNothingToRead) { EXPECT_EQ(run_shell("cat; echo end").output, "end\n"); }

TEST(ChildProcess, SaysWhichSignalEndedIt) {
  const ChildResult result = run_shell("echo before; echo reason >&2; kill -SEGV $$");
  EXPECT_EQ(result.signal, SIGSEGV);
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.output, "before\n");
  EXPECT_EQ(result.errors, "reason\n");
}

TEST(ChildProcess, CanReadBackItsErrors) {
  EXPECT_EQ(run_shell("echo reason >&2; cat /proc/self/fd/2").output, "reason\n");
}

TEST(ChildProcess, ReturnsMoreThanAPipeHolds) {
  const ChildResult result = run_shell("head -c 1000000 /dev/zero; echo end");
  EXPECT_EQ(result.output.size(), 1000004U);
  EXPECT_TRUE(result.output.ends_with("end\n"));
}

TEST(ChildProcess, IsWaitedForAfterItClosedItsOutput) {
  EXPECT_EQ(run_shell("exec >&-; sleep 0.2; exit 3").exit_code, 3);
}

TEST(ChildProcess, IsNotHeldUpByItsOwnChildrenAndTheyEndWithIt) {
  const ChildResult result = run_shell("sleep 100 & echo $!");
  const std::string id = result.output.substr(0, result.output.size() - 1);
  ASSERT_FALSE(id.empty());
  EXPECT_TRUE(comes_true([&] { return !is_running(id); })) << id;
}

TEST(ChildProcess, IsStoppedWithItsOwnChildren) {
  const TemporaryFolder folder;
  const auto ids = folder / "ids";
  testing::expect_stops_all(ids, [&](std::stop_token stop) {
    run_shell("sleep 100 & echo $$ $! > '" + ids.string() + "'; wait", std::move(stop));
  });
}

TEST(ChildProcess, IsNotStartedAfterAStop) {
  const TemporaryFolder folder;
  std::stop_source source;
  source.request_stop();
  expect_error(ErrorCode::kCancelled, {},
               [&] { run_child({"/usr/bin/touch", (folder / "made").string()}, source.get_token()); });
  EXPECT_FALSE(std::filesystem::exists(folder / "made"));
}

TEST(ChildProcess, OverALimitIsAnError) {
  expect_error(ErrorCode::kUnsupported, {"/bin/sh: printed more than 1000 bytes"},
               [] { run_shell("cat /dev/zero", {}, {.output_bytes = 1000}); });
  expect_error(ErrorCode::kUnsupported, {"/bin/sh: did not answer in 1 s"},
               [] { run_shell("sleep 100", {}, {.time = std::chrono::seconds(1)}); });
}

TEST(ChildProcess, ThatIsNotThereIsAnError) {
  expect_error(ErrorCode::kInvalidArgument, {"/no/such/program: can't be started: No such file"},
               [] { run_child({"/no/such/program"}, {}); });
}

}  // namespace
}  // namespace diffulex_edge
