// The one check of what is read from a checkpoint: weights are finite, stored scales are positive, normal numbers.
// Whatever reads weights goes through it: encoders for artefacts and checkpoints, and decoders for the runtime.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "checkpoint/stored_weight.h"

namespace diffulex_edge {

// Of rows of a weight, decoded to float32, beginning at `row_begin`: the largest magnitude. Throws Error{kBadFile}
// naming the first element that is not finite.
float check_values(const StoredWeight& source, std::int64_t row_begin, std::span<const float> rows);

// Of a quantized weight: consecutive scales as they are stored, beginning at its scale number `first`. Throws
// Error{kBadFile} naming the first one that is not what the runtimes take.
void check_scales(const StoredWeight& source, std::int64_t first, std::span<const std::byte> scales);

// Throws Error{kBadFile} naming the first element of the rows that `is_wrong`, and what is wrong with it.
[[noreturn]] void fail_at_element(const StoredWeight& source, std::int64_t row_begin, std::span<const float> rows,
                                  const std::function<bool(float)>& is_wrong, const std::string& what,
                                  const std::string& advice);

}  // namespace diffulex_edge
