// What the kernel of the operating system knows of this processor, by another way than ours.
#pragma once

#include <algorithm>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace diffulex_edge::testing {

// The words of the line of features in /proc/cpuinfo.
inline std::vector<std::string> processor_features() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("flags") || line.starts_with("Features")) {
      std::istringstream words(line.substr(line.find(':') + 1));
      return {std::istream_iterator<std::string>(words), {}};
    }
  }
  return {};
}

inline bool processor_has(std::string_view feature) {
  static const std::vector<std::string> features = processor_features();
  return std::find(features.begin(), features.end(), feature) != features.end();
}

}  // namespace diffulex_edge::testing
