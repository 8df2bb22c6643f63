// Runs independent work items on several threads.
#pragma once

#include <cstddef>
#include <functional>

#include "diffulex_edge/progress.h"

namespace diffulex_edge {

// Calls work(item, worker) once for each item in [0, count), in ascending order of start, on up to control.threads
// threads; `worker` in [0, threads) names the thread, for scratch buffers. The first exception stops the rest and is
// rethrown here. A triggered stop token gives Error{kCancelled}.
void parallel_for(std::size_t count, const RunControl& control,
                  const std::function<void(std::size_t item, std::size_t worker)>& work);

// The number of threads that parallel_for uses: control.threads, or the processors of this machine.
std::size_t thread_count(const RunControl& control);

}  // namespace diffulex_edge
