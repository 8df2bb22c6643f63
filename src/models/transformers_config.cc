// What transformers' Llama, Qwen2 and Qwen3 and the diffusion models derived from them share.

#include "models/architecture.h"

namespace diffulex_edge {

std::string prefix_of_names(const Checkpoint& checkpoint, const std::string& first) {
  const std::string prefix = "model.";
  const bool is_bare = checkpoint.find(first) != nullptr && checkpoint.find(prefix + first) == nullptr;
  return is_bare ? std::string() : prefix;
}

DecoderNames transformers_names(const std::string& model) {
  return {.embedding = model + "embed_tokens",
          .norm = model + "norm",
          .head = "lm_head",
          .layer = [layers = model + "layers."](std::int64_t layer) {
            const std::string prefix = layers + std::to_string(layer) + ".";
            return LayerNames{.input_norm = prefix + "input_layernorm",
                              .q_proj = prefix + "self_attn.q_proj",
                              .k_proj = prefix + "self_attn.k_proj",
                              .v_proj = prefix + "self_attn.v_proj",
                              .o_proj = prefix + "self_attn.o_proj",
                              .q_norm = prefix + "self_attn.q_norm",
                              .k_norm = prefix + "self_attn.k_norm",
                              .post_attention_norm = prefix + "post_attention_layernorm",
                              .gate_proj = prefix + "mlp.gate_proj",
                              .up_proj = prefix + "mlp.up_proj",
                              .down_proj = prefix + "mlp.down_proj",
                              .qkv_proj = {},
                              .router = prefix + "mlp.gate",
                              .router_bias = {},
                              .experts = prefix + "mlp.experts.",
                              .shared_experts = {}};
          }};
}

Graph build_transformers_decoder(const ModelConfig& config, const Checkpoint& checkpoint, std::int64_t seq_len) {
  const std::string prefix = prefix_of_names(checkpoint, "layers.0.input_layernorm.weight");
  return build_decoder(config, transformers_names(prefix), checkpoint, seq_len);
}

namespace {

// A window holds for the layers from max_window_layers on: for none, where the model has no more.
void expect_no_window(ConfigReader& reader, std::int64_t layers) {
  const std::optional<std::int64_t> first = reader.integer("max_window_layers");
  if (first && *first >= layers) {
    static_cast<void>(reader.boolean("use_sliding_window"));
  } else {
    reader.expect("use_sliding_window", false);
  }
}

}  // namespace

ModelConfig read_transformers_config(ConfigReader& reader, std::int64_t default_kv_heads) {
  reader.expect("partial_rotary_factor", 1.0);
  return read_transformers_sizes(reader, default_kv_heads, "intermediate_size");
}

ModelConfig read_transformers_sizes(ConfigReader& reader, std::int64_t default_kv_heads,
                                    std::string_view intermediate_size) {
  ModelConfig config;
  config.hidden_size = reader.require_size("hidden_size");
  config.intermediate_size = reader.require_size(intermediate_size);
  config.num_layers = reader.require_size("num_hidden_layers");
  config.num_heads = reader.require_size("num_attention_heads");
  config.vocab_size = reader.require_size("vocab_size");
  const bool kv_heads_absent = !reader.has("num_key_value_heads") && !reader.is_null("num_key_value_heads");
  config.num_kv_heads = reader.size("num_key_value_heads")
                            .value_or(kv_heads_absent && default_kv_heads > 0 ? default_kv_heads : config.num_heads);
  config.head_dim = config.hidden_size % config.num_heads == 0 ? config.hidden_size / config.num_heads : 0;
  config.max_positions = reader.size("max_position_embeddings").value_or(32768);
  config.rms_norm_eps = reader.positive("rms_norm_eps", 1e-6);
  config.rope = read_rope(reader, config.max_positions);
  config.tie_word_embeddings = reader.boolean("tie_word_embeddings").value_or(false);
  config.mask_token_id = reader.integer("mask_token_id");

  reader.expect("hidden_act", "silu");
  expect_no_window(reader, config.num_layers);
  reader.expect("use_mrope", false);
  reader.expect("rope_interleaved", false);
  if (const nlohmann::json* layer_types = reader.value("layer_types")) {
    if (!layer_types->is_array()) {
      reader.fail("layer_types", "is " + layer_types->dump() + ", not a list");
    }
    for (const nlohmann::json& type : *layer_types) {
      if (type != "full_attention") {
        reader.fail_unsupported("layer_types", "has " + type.dump() + "; supported is \"full_attention\"");
      }
    }
  }
  reader.ignore({"pretraining_tp", "sliding_window", "attention_dropout"});
  return config;
}

ModelConfig read_qwen3_config(ConfigReader& reader) {
  ModelConfig config = read_transformers_config(reader, 32);
  config.head_dim = reader.size("head_dim").value_or(128);
  config.qkv_bias = reader.boolean("attention_bias").value_or(false);
  config.attention_output_bias = config.qkv_bias;
  config.qk_norm = true;
  return config;
}

}  // namespace diffulex_edge
