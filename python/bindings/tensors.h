// Tensors that Python owns, as the library sees them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "diffulex_edge/checkpoint.h"

namespace diffulex_edge::python {

// Name, dtype as safetensors spells it, shape, address and size of the bytes.
using TensorTuple = std::tuple<std::string, std::string, std::vector<std::int64_t>, std::uintptr_t, std::size_t>;

inline std::byte* pointer(std::uintptr_t address) {
  return reinterpret_cast<std::byte*>(address);  // NOLINT(performance-no-int-to-ptr)
}

// The tensors' memory is the caller's and stays as long as the checkpoint.
std::shared_ptr<const Checkpoint> checkpoint_of(const std::vector<TensorTuple>& tensors);

}  // namespace diffulex_edge::python
