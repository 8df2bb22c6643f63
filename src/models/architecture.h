// What one file for each architecture provides: how it spells its configuration and names its weights.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "diffulex_edge/model.h"
#include "models/config_reader.h"

namespace diffulex_edge {

// Checkpoint names of a layer's tensors, without ".weight" or ".bias".
struct LayerNames {
  std::string input_norm;
  std::string q_proj;
  std::string k_proj;
  std::string v_proj;
  std::string o_proj;
  std::string q_norm;
  std::string k_norm;
  std::string post_attention_norm;
  std::string gate_proj;
  std::string up_proj;
  std::string down_proj;
};

struct DecoderNames {
  std::string embedding;
  std::string norm;
  std::string head;
  std::function<LayerNames(std::int64_t layer)> layer;
};

struct Architecture {
  std::string_view family;
  std::string_view model_type;    // config.json's "model_type"
  std::string_view architecture;  // an entry of config.json's "architectures"; the type alone is not enough
  ModelConfig (*read_config)(ConfigReader& reader);
  DecoderNames (*names)();
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
// Sizes, norm, rope, ties and activation under the keys of transformers' configurations. `default_kv_heads`: what
// absence of num_key_value_heads means (0: as many as heads). head_dim is hidden_size / num_attention_heads.
ModelConfig read_transformers_config(ConfigReader& reader, std::int64_t default_kv_heads);
// The same with what Qwen3 and its descendants add: head_dim of its own, optional biases, norms of queries and keys.
ModelConfig read_qwen3_config(ConfigReader& reader);
// "rope_theta" with "rope_scaling", or the newer "rope_parameters".
RopeConfig read_rope(ConfigReader& reader, std::int64_t max_positions);

}  // namespace diffulex_edge
