#include "core/parallel.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>

#include "core/thread_pool.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {

std::size_t thread_count(const RunControl& control) {
  if (control.threads > 0) {
    return static_cast<std::size_t>(control.threads);
  }
  return std::max(1U, std::thread::hardware_concurrency());
}

void parallel_for(std::size_t count, const RunControl& control,
                  const std::function<void(std::size_t, std::size_t)>& work) {
  std::atomic<std::size_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr failure;
  std::mutex failure_mutex;
  const auto run = [&](std::size_t worker) {
    while (!failed && (worker == 0 || !ThreadPool::is_ending())) {
      const std::size_t item = next++;
      if (item >= count) {
        return;
      }
      try {
        if (control.stop.stop_requested()) {
          throw Error(ErrorCode::kCancelled, {}, "stopped");
        }
        work(item, worker);
      } catch (...) {
        const std::scoped_lock lock(failure_mutex);
        if (!failed.exchange(true)) {
          failure = std::current_exception();
        }
      }
    }
  };
  ThreadPool::run(std::min(thread_count(control), count), run);
  if (failure) {
    std::rethrow_exception(failure);
  }
}

}  // namespace diffulex_edge
