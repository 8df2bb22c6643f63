// A model of a few hundred weights, for readers of what belongs to one.
#pragma once

#include <filesystem>

#include "diffulex_edge/model.h"

namespace diffulex_edge::fuzz {

// Weights of Qwen3's layout: hidden_size 8, two heads of 4 and one for keys, intermediate_size 8, 12 tokens, one layer,
// an untied head. Returns true.
bool write_tiny_weights(const std::filesystem::path& file);

// A model of these weights.
const Model& tiny_model();

}  // namespace diffulex_edge::fuzz
