// Checkpoints that another program has quantized: how their weights are stored.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "diffulex_edge/checkpoint.h"

namespace diffulex_edge {

enum class PrequantizedMethod { kGptq, kAwq, kCompressedTensors, kFp8, kBitsAndBytes };

// What config.json's "quantization_config" says that the tensors do not.
struct PrequantizedScheme {
  PrequantizedMethod method = PrequantizedMethod::kGptq;
  int bits = 4;                   // GPTQ, AWQ
  std::int64_t group_size = 0;    // GPTQ, AWQ; 0: a whole row
  bool differs_by_layer = false;  // GPTQ: "dynamic" gives layers other bits or groups
  bool zeros_less_one = true;     // GPTQ: version 1 stores zero points minus 1
  bool packs_inputs = false;      // AWQ: the layout "gemv", whose words hold neighbouring inputs
  std::int64_t block_rows = 0;    // FP8 with block scales
  std::int64_t block_columns = 0;
  bool ignores_activations = false;  // activations were quantized too, which the weights say nothing of
};

// How many weights were found in which layout ("GPTQ INT4 in groups of 128").
using PrequantizedLayouts = std::map<std::string, std::int64_t>;

// Of the weights that have a decoder already, as those of a GGUF file.
PrequantizedLayouts quantized_layouts(const Checkpoint& checkpoint);

// Replaces the tensors of every quantized weight by the weight NAME.weight, in float32, decoded as it is read. Throws
// Error{kBadFile} for tensors that are missing or do not fit together, kUnsupported for a layout that is not read, and
// kBadFile where no weight is quantized.
void read_prequantized(Checkpoint& checkpoint, const PrequantizedScheme& scheme);

// The warning for people: "225 weights are GPTQ INT4 in groups of 128: ...".
std::string describe(const PrequantizedLayouts& layouts, bool ignores_activations);

}  // namespace diffulex_edge
