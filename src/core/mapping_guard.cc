#include "core/mapping_guard.h"

#include <signal.h>  // NOLINT(modernize-deprecated-headers): POSIX, sigaction
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <mutex>

namespace diffulex_edge {
namespace {

using Slot = GuardedRange::Slot;

static_assert(std::atomic<std::uintptr_t>::is_always_lock_free && std::atomic<Slot*>::is_always_lock_free &&
              std::atomic<bool>::is_always_lock_free);

// What the handler uses. `previous` is written only before the handler is put in place.
std::atomic<Slot*> first_slot{nullptr};
std::atomic<std::uintptr_t> page_bytes{0};
struct sigaction previous;
std::atomic<bool> has_passed_on{false};

std::mutex& slots_mutex() {
  static auto* mutex = new std::mutex;  // never destroyed: files may be closed behind the end of main
  return *mutex;
}

// Whether `address` lies in a range, which from there on is zeros now.
bool replace(std::uintptr_t address) {
  for (Slot* slot = first_slot; slot != nullptr; slot = slot->next) {
    const std::uintptr_t begin = slot->begin;
    const std::size_t size = slot->size;
    if (begin == 0 || address < begin || address - begin >= size) {
      continue;
    }
    slot->is_broken = true;  // before anybody reads a zero
    const std::uintptr_t page = address / page_bytes * page_bytes;
    auto* start = reinterpret_cast<void*>(page);  // NOLINT(performance-no-int-to-ptr)
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
    return ::mmap(start, begin + size - page, PROT_READ, flags, -1, 0) != MAP_FAILED;
  }
  return false;
}

void set_default(int signal) {
  struct sigaction action{};
  action.sa_handler = SIG_DFL;
  ::sigaction(signal, &action, nullptr);
}

// Not ours. A handler that gives up raises the signal again, as Python's faulthandler does: then the process ends.
void pass_on(int signal, siginfo_t* info, void* context) {
  const bool is_fault = info->si_code > 0;
  const bool has_details = (previous.sa_flags & SA_SIGINFO) != 0;
  const bool is_handler = has_details || (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN);
  if (!is_handler || (!is_fault && has_passed_on)) {
    if (is_fault || is_handler || previous.sa_handler == SIG_DFL) {
      set_default(signal);
      if (!is_fault) {
        ::raise(signal);  // when this returns; a fault comes again by itself
      }
    }
    return;
  }
  has_passed_on = is_fault;
  if (has_details) {
    previous.sa_sigaction(signal, info, context);
  } else {
    previous.sa_handler(signal);
  }
}

void on_bus_error(int signal, siginfo_t* info, void* context) {
  const int error = errno;
  if (info->si_code <= 0 || !replace(reinterpret_cast<std::uintptr_t>(info->si_addr))) {
    pass_on(signal, info, context);
  }
  errno = error;
}

void put_handler_in_place() {
  struct sigaction current{};
  if (::sigaction(SIGBUS, nullptr, &current) != 0 ||
      ((current.sa_flags & SA_SIGINFO) != 0 && current.sa_sigaction == on_bus_error)) {
    return;
  }
  previous = current;
  page_bytes = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  struct sigaction action{};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  ::sigemptyset(&action.sa_mask);
  ::sigaction(SIGBUS, &action, nullptr);
}

}  // namespace

GuardedRange::GuardedRange(const void* begin, std::size_t size) {
  const std::scoped_lock lock(slots_mutex());
  put_handler_in_place();
  slot_ = first_slot;
  while (slot_ != nullptr && slot_->begin != 0) {
    slot_ = slot_->next;
  }
  if (slot_ == nullptr) {
    slot_ = new Slot;  // NOLINT(cppcoreguidelines-owning-memory): kept for ever
    slot_->next = first_slot;
    first_slot = slot_;
  }
  slot_->is_broken = false;
  slot_->size = size;
  slot_->begin = reinterpret_cast<std::uintptr_t>(begin);
}

GuardedRange::~GuardedRange() {
  const std::scoped_lock lock(slots_mutex());
  slot_->begin = 0;
}

}  // namespace diffulex_edge
