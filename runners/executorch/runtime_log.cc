#include "executorch/runtime_log.h"

#include <executorch/runtime/platform/platform.h>
#include <executorch/runtime/platform/runtime.h>

#include <mutex>

namespace diffulex_edge::runner {
namespace {

namespace et = executorch::runtime;

std::mutex mutex;
std::string first_message;

void keep(et_timestamp_t /*timestamp*/, et_pal_log_level_t level, const char* /*filename*/, const char* /*function*/,
          std::size_t /*line*/, const char* message, std::size_t length) {
  if (level != kError && level != kFatal) {
    return;
  }
  const std::scoped_lock lock(mutex);
  if (first_message.empty()) {
    first_message.assign(message, length);
  }
}

}  // namespace

void start_runtime() {
  et::runtime_init();
  // The table is the runtime's own variable. register_pal() would change it too, and say on stderr that the Python
  // package's runtime has registered one before.
  const_cast<et::PalImpl*>(et::get_pal_impl())->emit_log_message = keep;
}

std::string runtime_message(const char* otherwise) {
  const std::scoped_lock lock(mutex);
  return first_message.empty() ? otherwise : first_message;
}

void forget_runtime_messages() {
  const std::scoped_lock lock(mutex);
  first_message.clear();
}

}  // namespace diffulex_edge::runner
