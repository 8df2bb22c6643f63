// Long operations from Python: without the interpreter's lock, with progress, and stopped by Ctrl-C.
#pragma once

#include <nanobind/nanobind.h>

#include <functional>

#include "diffulex_edge/progress.h"

namespace diffulex_edge::python {

// Runs `work` in a thread of its own while this one, which holds the interpreter's lock, waits for it and for signals.
// `progress` is None or a callable progress(done_bytes, total_bytes, stage); what it raises stops the work, and so does
// KeyboardInterrupt. Throws what stopped it.
void run_stoppable(int threads, const nanobind::object& progress, const std::function<void(const RunControl&)>& work);

}  // namespace diffulex_edge::python
