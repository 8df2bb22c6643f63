// Shows progress on stderr: one line that is redrawn on a terminal, plain lines elsewhere.
#pragma once

#include <chrono>
#include <string>

#include "diffulex_edge/progress.h"

namespace diffulex_edge::cli {

class ProgressBar {
 public:
  explicit ProgressBar(bool quiet);
  ~ProgressBar() { end(); }
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  ProgressBar(ProgressBar&&) = delete;
  ProgressBar& operator=(ProgressBar&&) = delete;

  void show(const Progress& progress);
  // Clears the redrawn line.
  void end();

 private:
  using Clock = std::chrono::steady_clock;

  bool quiet_;
  bool terminal_;
  bool drawn_ = false;
  std::string stage_;
  Clock::time_point start_;  // of the first call of show in this stage: what was done before is no part of the rate
  Clock::time_point last_line_;
};

}  // namespace diffulex_edge::cli
