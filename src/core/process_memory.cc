#include "core/process_memory.h"

#include <sys/resource.h>

#include <fstream>
#include <string>

namespace diffulex_edge {

std::int64_t peak_rss_bytes() {
  // Linux's getrusage begins with what the parent had at the time of exec, /proc does not.
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) {
      return std::stoll(line.substr(6)) * 1024;
    }
  }
  struct rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
#ifdef __APPLE__
  return static_cast<std::int64_t>(usage.ru_maxrss);
#else
  return static_cast<std::int64_t>(usage.ru_maxrss) * 1024;
#endif
}

}  // namespace diffulex_edge
