// Mapped files that can no longer be read: a page that has gone is replaced by zeros, and the mapping remembers it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace diffulex_edge {

// A range of addresses under guard. Where another process cuts a file, or the disk fails, reading its mapping raises
// SIGBUS. The handler puts zeros in the place of all that follows in the range and notes it here, so that the reader
// goes on, and can throw where it likes. A fault of any other address goes to the handler that was there before.
class GuardedRange {
 public:
  // The handler is put in place with the first range, and again where somebody has replaced it since.
  GuardedRange(const void* begin, std::size_t size);
  ~GuardedRange();
  GuardedRange(const GuardedRange&) = delete;
  GuardedRange& operator=(const GuardedRange&) = delete;
  GuardedRange(GuardedRange&&) = delete;
  GuardedRange& operator=(GuardedRange&&) = delete;

  bool is_broken() const { return slot_->is_broken.load(); }

  // What the handler sees. Slots are used again and never freed: a handler may be looking at any of them.
  struct Slot {
    std::atomic<std::uintptr_t> begin{0};  // 0: free
    std::atomic<std::size_t> size{0};
    std::atomic<bool> is_broken{false};
    Slot* next = nullptr;
  };

 private:
  Slot* slot_;
};

}  // namespace diffulex_edge
