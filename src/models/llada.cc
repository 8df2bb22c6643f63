// LLaDA (LLaDAModelLM, GSAI-ML/LLaDA-8B-*): an OLMo-like configuration whose defaults are those of another network, so
// that absent keys mostly mean something unsupported. Bidirectional; logits are not shifted.

#include "models/architecture.h"

namespace diffulex_edge {
namespace {

std::int64_t read_kv_heads(ConfigReader& reader, std::int64_t heads) {
  const auto stated = reader.size("n_kv_heads");
  const auto multi_query = reader.boolean("multi_query_attention");
  const std::int64_t kv_heads = stated.value_or(multi_query.value_or(false) ? 1 : heads);
  if (multi_query && kv_heads != (*multi_query ? 1 : heads)) {
    reader.fail("multi_query_attention", "contradicts n_kv_heads = " + std::to_string(kv_heads));
  }
  return kv_heads;
}

std::int64_t read_vocabulary(ConfigReader& reader) {
  const std::int64_t vocab_size = reader.require_size("vocab_size");
  const std::int64_t rows = reader.size("embedding_size").value_or(vocab_size);
  if (rows < vocab_size) {
    reader.fail("embedding_size",
                "is " + std::to_string(rows) + ", less than vocab_size " + std::to_string(vocab_size));
  }
  return rows;
}

std::int64_t read_intermediate_size(ConfigReader& reader, std::int64_t hidden_size) {
  const auto stated = reader.size("mlp_hidden_size");
  const std::int64_t ratio = reader.size("mlp_ratio").value_or(4);
  return stated.value_or(ratio * hidden_size);
}

ModelConfig read_llada(ConfigReader& reader) {
  ModelConfig config;
  config.hidden_size = reader.require_size("d_model");
  config.num_layers = reader.require_size("n_layers");
  config.num_heads = reader.require_size("n_heads");
  config.num_kv_heads = read_kv_heads(reader, config.num_heads);
  if (config.hidden_size % config.num_heads != 0) {
    reader.fail("n_heads", "is " + std::to_string(config.num_heads) + ", which does not divide d_model " +
                               std::to_string(config.hidden_size));
  }
  config.head_dim = config.hidden_size / config.num_heads;
  config.intermediate_size = read_intermediate_size(reader, config.hidden_size);
  config.vocab_size = read_vocabulary(reader);
  config.max_positions = reader.size("max_sequence_length").value_or(1024);
  config.rms_norm_eps = reader.positive("rms_norm_eps", 1e-5);
  config.rope.theta = reader.positive("rope_theta", 10000.0);
  config.tie_word_embeddings = reader.boolean("weight_tying").value_or(true);
  config.mask_token_id = reader.integer("mask_token_id");
  const bool all_biases = reader.boolean("include_bias").value_or(false);
  config.qkv_bias = reader.boolean("include_qkv_bias").value_or(false) || all_biases;
  config.attention_output_bias = all_biases;
  config.mlp_bias = all_biases;
  config.head_bias = all_biases && !config.tie_word_embeddings;
  config.block_length = 0;

  reader.expect("bias_for_layer_norm", false, all_biases);
  reader.expect("rope", true, false);
  reader.expect("alibi", false);
  reader.expect("block_type", "llama", "sequential");
  reader.expect("activation_type", "silu", "swiglu");
  reader.expect("layer_norm_type", "rms", "default");
  reader.expect("layer_norm_with_affine", true);
  reader.expect("attention_layer_norm", false);
  reader.expect("scale_logits", false);
  reader.expect("input_emb_norm", false);
  reader.expect("block_group_size", 1);
  // tie_word_embeddings is transformers' key; the model itself reads weight_tying.
  reader.ignore({"tie_word_embeddings", "rope_full_precision", "attention_layer_norm_with_affine", "alibi_bias_max",
                 "flash_attention", "flash_attn_varlen", "attention_dropout", "embedding_dropout", "residual_dropout",
                 "init_cutoff_factor", "init_device", "init_fn", "init_std", "precision", "train_max_sequence_length",
                 "mup_init", "mup_base_n_heads"});
  return config;
}

DecoderNames names(const std::string& model) {
  return {.embedding = model + "transformer.wte",
          .norm = model + "transformer.ln_f",
          .head = model + "transformer.ff_out",
          .layer = [model](std::int64_t layer) {
            const std::string prefix = model + "transformer.blocks." + std::to_string(layer) + ".";
            return LayerNames{.input_norm = prefix + "attn_norm",
                              .q_proj = prefix + "q_proj",
                              .k_proj = prefix + "k_proj",
                              .v_proj = prefix + "v_proj",
                              .o_proj = prefix + "attn_out",
                              .q_norm = {},
                              .k_norm = {},
                              .post_attention_norm = prefix + "ff_norm",
                              .gate_proj = prefix + "ff_proj",
                              .up_proj = prefix + "up_proj",
                              .down_proj = prefix + "ff_out",
                              .qkv_proj = {},
                              .router = {},
                              .router_bias = {},
                              .experts = {},
                              .shared_experts = {}};
          }};
}

Graph build_llada(const ModelConfig& config, const Checkpoint& checkpoint, std::int64_t seq_len) {
  const std::string prefix = prefix_of_names(checkpoint, "transformer.blocks.0.attn_norm.weight");
  return build_decoder(config, names(prefix), checkpoint, seq_len);
}

}  // namespace

Architecture llada() {
  return {.family = "llada",
          .model_type = "llada",
          .architecture = "LLaDAModelLM",
          .read_config = read_llada,
          .build = build_llada};
}

}  // namespace diffulex_edge
