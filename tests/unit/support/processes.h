// Stand-ins for other programs, and whether a process is still there.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <stop_token>
#include <string>
#include <thread>

#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace diffulex_edge::testing {

// A program that does what `body` says, in the language of sh.
inline std::filesystem::path write_program(const std::filesystem::path& path, const std::string& body) {
  std::filesystem::create_directories(path.parent_path());
  write_file(path, "#!/bin/sh\n" + body);
  std::filesystem::permissions(path, std::filesystem::perms::owner_all);
  return path;
}

// Waits for what another process or thread is to bring about; false after ten minutes, since a busy machine is slow.
template <typename Condition>
bool comes_true(Condition&& condition) {
  const auto start = std::chrono::steady_clock::now();
  while (!condition()) {
    if (std::chrono::steady_clock::now() - start > std::chrono::minutes(10)) {
      return false;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

// A killed process whose parent is gone may stay on the system's list as a zombie: that one does not run.
inline bool is_running(const std::string& id) {
  const std::string state = read_file("/proc/" + id + "/stat");
  const std::size_t name_end = state.rfind(')');
  return name_end != std::string::npos && state.size() > name_end + 2 && state[name_end + 2] != 'Z' &&
         state[name_end + 2] != 'X';
}

// Runs what writes its child's and grandchild's numbers into the file `ids`, and stops it then: it returns with
// kCancelled soon, and neither is left.
inline void expect_stops_all(const std::filesystem::path& ids, const std::function<void(std::stop_token)>& run) {
  std::stop_source source;
  std::chrono::steady_clock::time_point asked;
  std::thread stopper([&] {
    comes_true([&] { return read_file(ids).ends_with('\n'); });
    asked = std::chrono::steady_clock::now();
    source.request_stop();
  });
  expect_error(ErrorCode::kCancelled, {"stopped"}, [&] { run(source.get_token()); });
  const auto returned = std::chrono::steady_clock::now();
  stopper.join();
  EXPECT_LT(returned - asked, std::chrono::minutes(1));
  std::istringstream text(read_file(ids));
  std::string child;
  std::string grandchild;
  ASSERT_TRUE(text >> child >> grandchild);
  EXPECT_FALSE(is_running(child));
  EXPECT_TRUE(comes_true([&] { return !is_running(grandchild); }));
}

}  // namespace diffulex_edge::testing
