// What one file for each architecture provides: how it spells its configuration, and how it builds its graph.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "diffulex_edge/model.h"
#include "models/config_reader.h"
#include "models/decoder.h"

namespace diffulex_edge {

struct Architecture {
  std::string_view family;
  std::string_view model_type;    // config.json's "model_type"
  std::string_view architecture;  // an entry of config.json's "architectures"; the type is not enough
  bool is_causal = false;         // by its class, whatever config.json says
  ModelConfig (*read_config)(ConfigReader& reader);
  // The graph of a model with this configuration, whose weights are in `checkpoint`; inputs of at most `seq_len`
  // tokens. Throws Error{kBadFile} where a tensor is absent or contradicts the configuration, and Error{kUnsupported}
  // where one has no place in the graph.
  Graph (*build)(const ModelConfig& config, const Checkpoint& checkpoint, std::int64_t seq_len);
};

// All architectures; the first whose model_type and architecture match is taken.
std::span<const Architecture> architectures();

// One function for each file of this folder.
Architecture llada();
Architecture dream();
Architecture sdar();
Architecture fast_dllm_v2();
Architecture llama();
Architecture qwen2();
Architecture qwen3();

// --- What the Qwen-like families share.

// The names of transformers' Llama, Qwen2 and Qwen3: model.layers.N.self_attn.q_proj and so on.
DecoderNames transformers_names();
// The dense decoder under those names.
Graph build_transformers_decoder(const ModelConfig& config, const Checkpoint& checkpoint, std::int64_t seq_len);
// Sizes, norm, rope, ties and activation under the keys of transformers' configurations. `default_kv_heads`: what
// absence of num_key_value_heads means (0: as many as heads). head_dim is hidden_size / num_attention_heads.
ModelConfig read_transformers_config(ConfigReader& reader, std::int64_t default_kv_heads);
// The same with what Qwen3 and its descendants add: head_dim of its own, optional biases, norms of queries and keys.
ModelConfig read_qwen3_config(ConfigReader& reader);
// "rope_theta" with "rope_scaling", or the newer "rope_parameters".
RopeConfig read_rope(ConfigReader& reader, std::int64_t max_positions);

}  // namespace diffulex_edge
