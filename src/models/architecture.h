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
Architecture qwen3_moe();
Architecture sdar_moe();
Architecture rnd1();
Architecture llada_moe();
Architecture llada2_moe();
Architecture nemotron_diffusion();

// --- What the Qwen-like families share.

// The names of transformers' Llama, Qwen2, Qwen3 and Qwen3-MoE: model.layers.N.self_attn.q_proj and so on. `model` is
// what the class with a head calls its decoder; a checkpoint that was written from the decoder alone has no such
// prefix.
DecoderNames transformers_names(const std::string& model = "model.");
// The prefix of a checkpoint: "model.", or nothing where it has a tensor of the name `first` without it.
std::string prefix_of_names(const Checkpoint& checkpoint, const std::string& first);
// The decoder under those names.
Graph build_transformers_decoder(const ModelConfig& config, const Checkpoint& checkpoint, std::int64_t seq_len);
// Sizes, norm, rope, ties and activation under the keys of transformers' configurations. `default_kv_heads`: what
// absence of num_key_value_heads means (0: as many as heads). head_dim is hidden_size / num_attention_heads.
ModelConfig read_transformers_config(ConfigReader& reader, std::int64_t default_kv_heads);
// The same for families that spell the MLP's width otherwise, and turn a part of each head.
ModelConfig read_transformers_sizes(ConfigReader& reader, std::int64_t default_kv_heads,
                                    std::string_view intermediate_size);
// The same with what Qwen3 and its descendants add: head_dim of its own, optional biases, norms of queries and keys.
ModelConfig read_qwen3_config(ConfigReader& reader);
// SDAR's block length: "block_length", or "block_size" of its training code.
std::int64_t read_block_length(ConfigReader& reader, std::int64_t fallback);
// Keys that SDAR's training code leaves behind.
void ignore_sdar_training(ConfigReader& reader);
// Qwen3-MoE's attention and experts; `normalizes` is what absence of norm_topk_prob means.
ModelConfig read_qwen3_moe_config(ConfigReader& reader, bool normalizes);
// For `rotary_dim`: the first int(factor * head_dim) elements of a head turn, of all of them 0.
std::int64_t read_rotary_dim(ConfigReader& reader, std::int64_t head_dim, double fallback);
// "num_experts" and "num_experts_per_tok", and what all families with experts leave aside.
ExpertConfig read_expert_counts(ConfigReader& reader);
// "rope_theta" with "rope_scaling", or the newer "rope_parameters".
RopeConfig read_rope(ConfigReader& reader, std::int64_t max_positions);

}  // namespace diffulex_edge
