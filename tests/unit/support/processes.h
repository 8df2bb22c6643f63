// Stand-ins for other programs, and whether a process is still there.
#pragma once

#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "support/temporary_folder.h"

namespace diffulex_edge::testing {

// A program that does what `body` says, in the language of sh.
inline std::filesystem::path write_program(const std::filesystem::path& path, const std::string& body) {
  std::filesystem::create_directories(path.parent_path());
  write_file(path, "#!/bin/sh\n" + body);
  std::filesystem::permissions(path, std::filesystem::perms::owner_all);
  return path;
}

// Waits for what another process or thread is to bring about; false after ten seconds.
template <typename Condition>
bool comes_true(Condition&& condition) {
  const auto start = std::chrono::steady_clock::now();
  while (!condition()) {
    if (std::chrono::steady_clock::now() - start > std::chrono::seconds(10)) {
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

}  // namespace diffulex_edge::testing
