// How an export that fails becomes a result, and how what a caller's callback throws passes through it unchanged.
#pragma once

#include <exception>
#include <functional>
#include <mutex>

#include "diffulex_edge/backend.h"
#include "diffulex_edge/progress.h"

namespace diffulex_edge {

// What `work` returns, or a failed result for what it throws.
ExportResult caught(const std::function<ExportResult()>& work);

// Calls the caller's callback, and keeps what it throws.
class WatchedCallback {
 public:
  explicit WatchedCallback(const RunControl& control);
  WatchedCallback(const WatchedCallback&) = delete;
  WatchedCallback& operator=(const WatchedCallback&) = delete;
  WatchedCallback(WatchedCallback&&) = delete;
  WatchedCallback& operator=(WatchedCallback&&) = delete;
  ~WatchedCallback() = default;

  // The caller's, with a callback that is watched.
  const RunControl& control() const { return control_; }
  // Throws again what the callback threw.
  void check() const;

 private:
  RunControl control_;
  std::mutex mutex_;
  std::exception_ptr thrown_;
};

}  // namespace diffulex_edge
