// Words that reports share.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "diffulex_edge/evaluation.h"
#include "diffulex_edge/quantization.h"

namespace diffulex_edge {

// "int4", or "mixed" with a mixed-precision plan
std::string dtype_name(const QuantizationConfig& config);
// "int4 weight_only, groups of 32, rounded by mse"
std::string describe(const QuantizationConfig& config);
// "bidirectional", "block-causal, blocks of 4"
std::string describe_mask(std::int64_t block_length);
// "0.0012 ± 0.0003"; without an interval only the mean.
std::string with_interval(const Estimate& estimate, int decimals);

// Neighbours that are equal as one: "24 x aten::empty.out".
std::vector<std::string> counted(const std::vector<std::string>& words);

// Of all types together.
std::int64_t total(const std::map<std::string, std::int64_t>& counts);

// The name of a file or folder, a separator at the end or not; ORG/NAME of one in the Hugging Face cache.
std::string last_part(const std::filesystem::path& path);

// Where a layer stands: "layers.3.q_proj" is q_proj of block 3; "lm_head" has no block. All experts of a block are of
// one kind, "experts.*.up_proj".
struct LayerName {
  std::optional<std::int64_t> block;
  std::string kind;
};
LayerName parse_layer_name(const std::string& layer);
// What all blocks have: "layers.*.q_proj"; biases apart.
std::string kind_of(const LayerPlan& plan);

}  // namespace diffulex_edge
