// A model as one of llama.cpp's architectures: which one computes the same, under which keys and tensor names.
// Source: llama.cpp's src/models/*.cpp, which say what a file's keys and tensors do, and its conversion/*.py, which
// write them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "diffulex_edge/model.h"
#include "model_files/gguf_header.h"

namespace diffulex_edge {

// "llama", "qwen2", "qwen3", "qwen3moe", "dream", "llada", "llada-moe" or "rnd1". Throws Error{kUnsupported} where none
// computes what the model does, saying what is in the way.
std::string gguf_architecture(const ModelConfig& config);

// All keys of the architecture, under its prefix, and those of diffusion.
void add_gguf_settings(const ModelConfig& config, GgufHeader& header);

// Where a weight lies in the file: a tensor of its own, or one of a tensor's matrices.
struct GgufPlace {
  std::string tensor;                // "blk.3.attn_q.weight"
  std::int64_t heads = 0;            // whose rows are stored for a rotation of neighbours; 0: in order
  std::optional<std::int64_t> part;  // of the experts'
};

// Of a weight or bias ("weight", "bias") of a layer with this canonical name.
GgufPlace gguf_place(const ModelConfig& config, std::string_view layer, std::string_view kind);

// By what llama.cpp divides the rotary frequencies, as the tensor "rope_freqs.weight" has it; empty: there is none.
std::vector<float> gguf_rope_factors(const ModelConfig& config);

}  // namespace diffulex_edge
