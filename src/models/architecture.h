// What one file for each architecture provides: how it spells its configuration, and how it builds its graph.
#pragma once

#include <cstdint>
#include <span>
#include <string>
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
  // Where another architecture has the same names: whether a configuration is this one's. nullptr: it is.
  bool (*is_own)(ConfigReader& reader) = nullptr;
  ModelConfig (*read_config)(ConfigReader& reader);
  // The graph of a model with this configuration, whose weights are in `checkpoint`; inputs of at most `seq_len`
  // tokens. Throws Error{kBadFile} where a tensor is absent or contradicts the configuration, and Error{kUnsupported}
  // where one has no place in the graph.
  Graph (*build)(const ModelConfig& config, const Checkpoint& checkpoint, std::int64_t seq_len);
};

// All architectures; the first that a configuration's model_type, architecture and is_own match is taken.
std::span<const Architecture> architectures();

// One function for each file of this folder.
Architecture llada();
Architecture dream();
Architecture sdar();
Architecture fast_dllm_v2();
Architecture llama();
Architecture qwen2();
Architecture qwen3();
Architecture a2d_llama();
Architecture a2d_qwen2();
Architecture a2d_qwen3();
Architecture wedlm();
Architecture stable_diffcoder();
Architecture open_dcoder();

// --- What the Qwen-like families share.

// The names of transformers' Llama, Qwen2 and Qwen3: model.layers.N.self_attn.q_proj and so on. `model` is what the
// class with a head calls its decoder; a checkpoint that was written from the decoder alone has no such prefix.
DecoderNames transformers_names(const std::string& model = "model.");
// The prefix of a checkpoint: "model.", or nothing where it has a tensor of the name `first` without it.
std::string prefix_of_names(const Checkpoint& checkpoint, const std::string& first);
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
