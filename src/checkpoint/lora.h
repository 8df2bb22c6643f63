// Adapters of low rank (LoRA, Hu et al. 2021, and DoRA, Liu et al. 2024) in the layout of the peft library, added to
// a checkpoint's weights while these are read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "diffulex_edge/checkpoint.h"

namespace diffulex_edge {

// What to do with an adapter that is not read here.
inline constexpr const char* kMergeFirst =
    "merge it first: PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(FOLDER)";

// What adapter_config.json says that the tensors do not.
struct LoraScheme {
  double alpha = 8.0;
  std::map<std::string, double, std::less<>> alpha_of_modules;  // by the last parts of their names
  bool is_rank_stabilized = false;                              // divided by the root of the rank, not by the rank
};

struct MergedLora {
  std::int64_t weights = 0;      // with a product of low rank added
  std::int64_t replaced = 0;     // stored whole in the adapter: biases, modules_to_save
  std::int64_t lowest_rank = 0;  // of the products
  std::int64_t highest_rank = 0;
};

// "196 weights have a product of rank 16 added, 2 tensors are replaced"
std::string describe(const MergedLora& merged);

// The safetensors file of an adapter's folder. Throws Error{kBadFile} where there is none.
std::filesystem::path find_adapter_weights(const std::filesystem::path& folder);

// With A [rank, in] and B [out, rank] of a module, its weight becomes W + scale * B A, scale = alpha / rank; with a
// magnitude m [out] (DoRA), m / |W + scale * B A| of it, row by row. Of an embedding [tokens, width], A [rank, tokens]
// and B [width, rank] give W + scale * (B A)^T. All in float32, as the rows are read. `base` takes over `adapter`.
// `is_tied`: the head is the embedding's table. Throws Error{kBadFile} for tensors that do not fit the model, and
// kUnsupported for those of another kind, for a tied embedding, and where the weights are quantized by this program.
MergedLora merge_lora(Checkpoint& base, Checkpoint adapter, const LoraScheme& scheme, bool is_tied);

}  // namespace diffulex_edge
