// A small random model in Qwen3's or LLaDA's layout, with rows that groups of 32 divide.
#pragma once

#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "support/safetensors_text.h"
#include "support/temporary_folder.h"

namespace diffulex_edge::testing {

inline nlohmann::json llada_config() {
  return {{"architectures", {"LLaDAModelLM"}},
          {"model_type", "llada"},
          {"d_model", 64},
          {"n_layers", 2},
          {"n_heads", 4},
          {"n_kv_heads", 2},
          {"mlp_hidden_size", 96},
          {"vocab_size", 50},
          {"embedding_size", 50},
          {"weight_tying", false},
          {"rope", true},
          {"block_type", "llama"},
          {"activation_type", "silu"},
          {"layer_norm_type", "rms"}};
}

inline nlohmann::json transformers_config(const std::string& type, const std::string& architecture) {
  return {{"architectures", {architecture}},
          {"model_type", type},
          {"hidden_size", 64},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"head_dim", 16},
          {"intermediate_size", 96},
          {"vocab_size", 50},
          {"rope_theta", 10000},
          {"tie_word_embeddings", false}};
}

inline TestTensor random_tensor(const std::string& name, std::vector<std::int64_t> shape, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0F, 0.2F);
  std::int64_t count = 1;
  for (const std::int64_t size : shape) {
    count *= size;
  }
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) {
    value = normal(generator);
  }
  return {.name = name, .dtype = DType::kF32, .shape = std::move(shape), .bytes = bytes_of(values)};
}

// The tensors of a Qwen3-like model of the shape above (sdar, qwen3).
inline std::vector<TestTensor> qwen3_tensors(bool head) {
  unsigned seed = 1;
  std::vector<TestTensor> tensors;
  const auto add = [&](const std::string& name, std::vector<std::int64_t> shape) {
    tensors.push_back(random_tensor(name, std::move(shape), seed++));
  };
  add("model.embed_tokens.weight", {50, 64});
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    add(layer + "input_layernorm.weight", {64});
    add(layer + "self_attn.q_proj.weight", {64, 64});
    add(layer + "self_attn.k_proj.weight", {32, 64});
    add(layer + "self_attn.v_proj.weight", {32, 64});
    add(layer + "self_attn.o_proj.weight", {64, 64});
    add(layer + "self_attn.q_norm.weight", {16});
    add(layer + "self_attn.k_norm.weight", {16});
    add(layer + "post_attention_layernorm.weight", {64});
    add(layer + "mlp.gate_proj.weight", {96, 64});
    add(layer + "mlp.up_proj.weight", {96, 64});
    add(layer + "mlp.down_proj.weight", {64, 96});
  }
  add("model.norm.weight", {64});
  if (head) {
    add("lm_head.weight", {50, 64});
  }
  return tensors;
}

inline void write_model(const std::filesystem::path& folder, const nlohmann::json& config,
                        const std::vector<TestTensor>& tensors) {
  std::filesystem::create_directories(folder);
  write_file(folder / "config.json", config.dump());
  write_file(folder / "model.safetensors", safetensors_file(tensors));
}

// An SDAR model in `folder`, tied or not.
inline void write_sdar(const std::filesystem::path& folder, bool tied = false) {
  nlohmann::json config = transformers_config("sdar", "SDARForCausalLM");
  config["tie_word_embeddings"] = tied;
  write_model(folder, config, qwen3_tensors(!tied));
}

}  // namespace diffulex_edge::testing
