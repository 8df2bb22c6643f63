// Memory for ExecuTorch's methods, from the heap.
#pragma once

// The runtime's headers come from its package, with the macros that it was compiled with.
#include <executorch/runtime/core/memory_allocator.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

namespace diffulex_edge::runner {

class HeapAllocator : public executorch::runtime::MemoryAllocator {
 public:
  HeapAllocator() : MemoryAllocator(0, nullptr) {}

  // Null where there is no memory, which the runtime says in an error of its own.
  void* allocate(std::size_t size, std::size_t alignment = kDefaultAlignment) override {
    if (!isPowerOf2(alignment) || size > SIZE_MAX - alignment) {
      return nullptr;
    }
    try {
      blocks_.push_back(std::make_unique<std::uint8_t[]>(size + alignment));
    } catch (const std::bad_alloc&) {
      return nullptr;
    }
    return alignPointer(blocks_.back().get(), alignment);
  }

  void reset() override { blocks_.clear(); }

 private:
  std::vector<std::unique_ptr<std::uint8_t[]>> blocks_;
};

}  // namespace diffulex_edge::runner
