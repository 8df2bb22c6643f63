#include "run.h"

#include <chrono>
#include <exception>
#include <future>
#include <thread>

#include "diffulex_edge/error.h"

namespace nb = nanobind;

namespace diffulex_edge::python {

void run_stoppable(int threads, const nb::object& progress, const std::function<void(const RunControl&)>& work) {
  if (threads < 0) {
    throw Error(ErrorCode::kInvalidArgument, "threads", std::to_string(threads) + " is not 0 or more");
  }
  std::stop_source stop;
  RunControl control{.threads = threads, .stop = stop.get_token()};
  if (!progress.is_none()) {
    control.on_progress = [&progress](const Progress& state) {
      const nb::gil_scoped_acquire lock;
      progress(state.done_bytes, state.total_bytes, nb::str(state.stage.c_str()));
    };
  }
  std::packaged_task<void()> task([&] { work(control); });
  std::future<void> done = task.get_future();
  std::jthread worker(std::move(task));
  const auto wait = [&done](std::chrono::milliseconds time) {
    const nb::gil_scoped_release unlock;
    return done.wait_for(time) == std::future_status::ready;
  };
  constexpr std::chrono::milliseconds kBetweenSignals{50};
  std::exception_ptr interrupt;
  while (!wait(kBetweenSignals)) {
    if (!interrupt && PyErr_CheckSignals() != 0) {
      interrupt = std::make_exception_ptr(nb::python_error());
      stop.request_stop();
    }
  }
  {
    const nb::gil_scoped_release unlock;
    worker.join();
  }
  if (interrupt) {
    std::rethrow_exception(interrupt);
  }
  done.get();
}

}  // namespace diffulex_edge::python
