// Switches the weight cache of ExecuTorch's XNNPACK backend, for programs that are loaded from then on. It is off in
// the PyPI wheel and on in ExecuTorch's builds for Android and Apple. A shared library for
// tests/integration/weight_cache.py, compiled against the headers of the executorch package.
#define C10_USING_CUSTOM_GENERATED_MACROS
#include <executorch/runtime/backend/interface.h>
#include <executorch/runtime/backend/options.h>

namespace runtime = executorch::runtime;

// `backend` is the runtime's XNNPACK backend, as get_backend_class gives it. 0, or the runtime's error code.
extern "C" int set_xnnpack_weight_cache(runtime::BackendInterface* backend, bool on) {
  runtime::BackendOptions<1> options;
  const runtime::Error error = options.set_option("weight_cache_enabled", on);
  if (error != runtime::Error::Ok) {
    return static_cast<int>(error);
  }
  runtime::BackendOptionContext context;
  return static_cast<int>(backend->set_option(context, options.view()));
}
