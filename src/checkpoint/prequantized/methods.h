// One function for each method: finds its weights, and gives them to the checkpoint.
#pragma once

#include "checkpoint/prequantized/scheme.h"
#include "diffulex_edge/checkpoint.h"

namespace diffulex_edge {

PrequantizedLayouts read_gptq(Checkpoint& checkpoint, const PrequantizedScheme& scheme);
PrequantizedLayouts read_awq(Checkpoint& checkpoint, const PrequantizedScheme& scheme);
PrequantizedLayouts read_compressed_tensors(Checkpoint& checkpoint, const PrequantizedScheme& scheme);
PrequantizedLayouts read_fp8(Checkpoint& checkpoint, const PrequantizedScheme& scheme);
PrequantizedLayouts read_bitsandbytes(Checkpoint& checkpoint, const PrequantizedScheme& scheme);

}  // namespace diffulex_edge
