// The files of a folder, whole.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "support/temporary_folder.h"

namespace diffulex_edge::testing {

using Tree = std::map<std::string, std::string>;  // contents by path below the folder

// Every file below a folder.
inline Tree read_tree(const std::filesystem::path& folder) {
  Tree tree;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) {
      tree[entry.path().lexically_relative(folder).string()] = read_file(entry.path());
    }
  }
  return tree;
}

using Names = std::vector<std::string>;

// What is directly in a folder, in order.
inline Names names_in(const std::filesystem::path& folder) {
  Names names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    names.push_back(entry.path().filename());
  }
  std::ranges::sort(names);
  return names;
}

inline std::int64_t bytes_in(const Tree& tree) {
  std::int64_t total = 0;
  for (const auto& [path, content] : tree) {
    total += static_cast<std::int64_t>(content.size());
  }
  return total;
}

// Names of what is directly in a folder, hidden ones too.
inline std::vector<std::string> entries_of(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    names.push_back(entry.path().filename());
  }
  std::ranges::sort(names);
  return names;
}

}  // namespace diffulex_edge::testing
