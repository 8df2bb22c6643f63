// Runs independent work items on several threads.
//
// The threads belong to the process: each is started when a call first has work for it, and waits, asleep, for the next
// call. Callers on several threads at once, and calls from inside an item, share them; the calling thread always works
// too, so no call waits for a thread to become free.
#pragma once

#include <cstddef>
#include <functional>

#include "diffulex_edge/progress.h"

namespace diffulex_edge {

// Calls work(item, worker) once for each item in [0, count), in ascending order of start, on up to control.threads
// threads, the caller's among them; `worker` in [0, threads) names the thread, for scratch buffers. The first exception
// stops the rest and is rethrown here. A triggered stop token gives Error{kCancelled}.
//
// Where the system refuses a thread (a limit on processes, no memory for its stack), the work is done by those that
// there are, at least the caller's: results never depend on their number. A child of fork() starts threads of its own.
void parallel_for(std::size_t count, const RunControl& control,
                  const std::function<void(std::size_t item, std::size_t worker)>& work);

// The number of threads that parallel_for uses at most: control.threads, or the processors of this machine.
std::size_t thread_count(const RunControl& control);

}  // namespace diffulex_edge
