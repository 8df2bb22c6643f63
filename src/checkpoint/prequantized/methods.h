// One function for each method: finds its weights, gives them to the checkpoint, and returns how many there were.
#pragma once

#include <cstdint>

#include "checkpoint/prequantized/scheme.h"
#include "diffulex_edge/checkpoint.h"

namespace diffulex_edge {

std::int64_t read_gptq(Checkpoint& checkpoint, const PrequantizedScheme& scheme);
std::int64_t read_awq(Checkpoint& checkpoint, const PrequantizedScheme& scheme);
std::int64_t read_compressed_tensors(Checkpoint& checkpoint, const PrequantizedScheme& scheme);
std::int64_t read_fp8(Checkpoint& checkpoint, const PrequantizedScheme& scheme);
std::int64_t read_bitsandbytes(Checkpoint& checkpoint, const PrequantizedScheme& scheme);

}  // namespace diffulex_edge
