// From a Hugging Face model folder to a graph.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "diffulex_edge/activations.h"
#include "diffulex_edge/checkpoint.h"
#include "diffulex_edge/graph.h"

namespace diffulex_edge {

// Rotary position embedding: inverse frequencies theta^(-2i/head_dim), scaled as `type` says.
struct RopeConfig {
  enum class Type { kDefault, kLinear, kLlama3, kYarn };

  double theta = 10000.0;
  Type type = Type::kDefault;
  double factor = 1.0;
  std::int64_t original_max_positions = 0;
  double low_freq_factor = 1.0;   // llama3
  double high_freq_factor = 4.0;  // llama3
  double beta_fast = 32.0;        // yarn
  double beta_slow = 1.0;         // yarn
  bool truncate = true;           // yarn
  double attention_factor = 1.0;  // yarn: multiplies cos and sin
  // Llama 4's scaling of queries (1 + beta * log(1 + floor(position / this))) is 1 before this position, and not built
  // beyond it; 0: the model has none.
  std::int64_t unscaled_positions = 0;
};

// Layers with routed experts: MLPs of which each token computes a few, chosen by a router.
struct ExpertConfig {
  std::int64_t count = 0;                     // in each such layer; 0: the model has none
  std::int64_t intermediate_size = 0;         // of one
  std::int64_t shared_intermediate_size = 0;  // of the MLP beside them that every token computes; 0: there is none
  // Layers with one plain MLP of the model's intermediate_size instead: the first ones, those whose number, counted
  // from 1, is no multiple of `sparse_step`, and those that are listed, ascending.
  std::int64_t first_dense = 0;
  std::int64_t sparse_step = 1;
  std::vector<std::int64_t> dense_layers;
  bool has_router_bias = false;  // added to scores
  RouteAttributes route;

  bool is_dense(std::int64_t layer) const;
};

// What a decoder's configuration means, whichever family spells it.
struct ModelConfig {
  std::string family;        // Architecture::family: "llada", "sdar", "qwen3_moe", ...
  std::string architecture;  // as in config.json, such as "LLaDAModelLM"
  std::int64_t hidden_size = 0;
  std::int64_t num_layers = 0;
  std::int64_t num_heads = 0;
  std::int64_t num_kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t intermediate_size = 0;  // of plain MLPs
  std::int64_t vocab_size = 0;         // rows of the embedding and width of the logits
  std::int64_t max_positions = 0;
  double rms_norm_eps = 1e-6;
  bool qkv_bias = false;
  bool attention_output_bias = false;
  bool mlp_bias = false;
  bool head_bias = false;
  bool qk_norm = false;  // RMS norm of each query and key head
  bool tie_word_embeddings = false;
  std::int64_t block_length = 0;  // 0: bidirectional; B: position i sees j where floor(j/B) <= floor(i/B)
  std::optional<std::int64_t> mask_token_id;
  RopeConfig rope;
  std::int64_t rotary_dim = 0;  // the first so many of head_dim turn; 0: all
  ExpertConfig experts;
};

struct ModelOptions {
  // The longest input, in tokens. Default: max_positions, at most 1024.
  std::optional<std::int64_t> seq_len;
  // Overrides the configuration's block length; 0 makes the model fully bidirectional.
  std::optional<std::int64_t> block_length;
  // Overrides the configuration's mask token.
  std::optional<std::int64_t> mask_token_id;
  // config.json keys that this library does not know and the caller declares harmless.
  std::vector<std::string> ignored_config_keys;
  // The folder of an adapter of the peft library, or its ORG/NAME in the Hugging Face cache: what it adds to weights is
  // added while they are read. A model that is named by its adapter's folder has it already.
  std::optional<std::filesystem::path> adapter;
};

// What `diffulex-edge quantize` noted in config.json: the defaults for exporting that checkpoint.
struct StoredQuantization {
  std::string dtype;
  std::string mode;
  std::int64_t group_size = 0;
  std::vector<std::string> exclude_layers;
  std::optional<std::string> embedding_dtype;
  std::optional<std::string> head_dtype;
  std::map<std::string, std::string, std::less<>> layer_formats;     // mixed precision; by canonical name
  std::map<std::string, LayerActivations, std::less<>> activations;  // mode static; by canonical name
};

// A model ready to quantize and export: `forward(input_ids int64 [1, seq]) -> logits float32 [1, seq, vocab]`.
struct Model {
  std::filesystem::path path;
  ModelConfig config;
  std::int64_t seq_len = 0;
  Graph graph;
  std::shared_ptr<const Checkpoint> checkpoint;
  std::optional<StoredQuantization> stored_quantization;
  std::vector<std::string> warnings;
};

// Reads the config.json of a folder, or of a model in the Hugging Face cache (find_model_folder, checkpoint.h). Throws
// Error{kBadFile} for missing or contradictory keys and Error{kUnsupported} for another
// architecture or a key that changes the mathematics in a way that is not covered, unknown keys included.
ModelConfig read_model_config(const std::filesystem::path& folder, const ModelOptions& options = {});

// Reads the config.json and the checkpoint of such a folder, checks every weight's shape and builds the graph.
// Model::path is the folder, also where `name` was another.
Model load_model(const std::filesystem::path& name, const ModelOptions& options = {});

// The ids that end a text, by generation_config.json, config.json or the tokenizer's files; empty where none says.
std::vector<std::int64_t> find_eos_ids(const Model& model);

}  // namespace diffulex_edge
