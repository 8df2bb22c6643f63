#include "backends/guarded_export.h"

#include <new>

#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

ExportResult failed(const Error& error) {
  return {.success = false, .error_message = error.what(), .error_code = error.code(), .error = error, .metadata = {}};
}

}  // namespace

ExportResult caught(const std::function<ExportResult()>& work) {
  try {
    return work();
  } catch (const Error& error) {
    return failed(error);
  } catch (const std::bad_alloc&) {
    return failed(Error(ErrorCode::kOutOfMemory, {}, "out of memory"));
  } catch (const std::exception& exception) {
    return failed(Error(ErrorCode::kInternal, "internal error", exception.what()));
  }
}

WatchedCallback::WatchedCallback(const RunControl& control) : control_(control) {
  if (!control.on_progress) {
    return;
  }
  control_.on_progress = [this, callback = control.on_progress](const Progress& progress) {
    try {
      callback(progress);
    } catch (...) {
      const std::scoped_lock lock(mutex_);
      thrown_ = std::current_exception();
      throw;
    }
  };
}

void WatchedCallback::check() const {
  if (thrown_) {
    std::rethrow_exception(thrown_);
  }
}

}  // namespace diffulex_edge
