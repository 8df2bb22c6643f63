// The pieces that decoders are built from: rotary tables, attention, norms, linear layers and gated MLPs, each tensor
// checked against the configuration. A family with another layer composes them itself.
#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "checkpoint/stored_weight.h"
#include "diffulex_edge/checkpoint.h"
#include "diffulex_edge/graph.h"
#include "diffulex_edge/model.h"

namespace diffulex_edge {

// Checkpoint names of a layer's tensors, without ".weight" or ".bias". Those that a family has not are empty.
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
  std::string qkv_proj;        // the rows of all queries, keys and values, in place of q_proj, k_proj and v_proj
  std::string router;          // its weight's
  std::string router_bias;     // a tensor's whole name
  std::string experts;         // what stands before an expert's number and ".gate_proj" and so on
  std::string shared_experts;  // what stands before "gate_proj" and so on
};

struct MlpNames {
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

// A checkpoint's tensors as a graph takes them: each with the shape that the configuration asks for, and in the end
// every one of them.
class ModelWeights {
 public:
  explicit ModelWeights(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}

  // Throws Error{kBadFile} where the tensor is absent.
  StoredWeight find(const std::string& tensor) const { return find_stored_weight(checkpoint_, tensor); }
  bool has(const std::string& tensor) const { return checkpoint_.find(tensor) != nullptr; }
  // Marks the tensor as used. `shape` is [size] or [out, in]; throws Error{kBadFile} for another one.
  void require(const std::string& tensor, const std::vector<std::int64_t>& shape);
  // Throws Error{kBadFile} where an untied head is absent.
  void require_head(const std::string& tensor) const;
  // Where a configuration ties the head to the embedding and the checkpoint has both, readers disagree which one
  // counts: Error{kBadFile} where the two differ.
  void check_tied(const std::string& embedding_name, const std::string& head_name) const;
  // A tensor whose name begins so may be there without being used.
  void allow_unused(std::string prefix) { unused_ = std::move(prefix); }
  // A tensor that the configuration has no place for (a bias, an expert, one more layer) would change the result:
  // Error{kUnsupported} names it.
  void check_all_used() const;

 private:
  bool is_empty_bias(std::string_view name, const TensorView& view) const;

  const Checkpoint& checkpoint_;
  std::set<std::string, std::less<>> used_;
  std::string unused_;
};

// Adds a decoder's parts to a graph, one after another. Values of tokens are [seq, hidden_size]. `layer` is a canonical
// name ("layers.3.q_proj") or, for parts of several layers, its prefix ("layers.3.").
class DecoderParts {
 public:
  // Keeps references to `config` and `weights`.
  DecoderParts(const ModelConfig& config, ModelWeights& weights, std::int64_t seq_len);

  // First of all: the input ids' rows of the table `name`. The first layer's q_proj must agree with the configuration
  // before rotary tables of its sizes are made.
  ValueId embed_tokens(const std::string& name, const LayerNames& first_layer);
  ValueId norm(ValueId x, const std::string& name, std::int64_t size, std::string layer);
  ValueId linear(ValueId x, const std::string& name, std::int64_t out, std::int64_t in, bool bias, std::string layer);
  ValueId add(ValueId a, ValueId b);
  // Grouped-query attention with rotary embedding, the block-causal mask and, where the configuration has them, norms
  // of query and key heads.
  ValueId attention(ValueId x, const LayerNames& names, const std::string& layer);
  // down(silu(gate(x)) * up(x)), with `inner` values between them
  ValueId gated_mlp(ValueId x, const MlpNames& names, std::int64_t inner, const std::string& layer);
  // What the layer has between attention and the next one: a plain MLP, or the sum of its experts' weighted outputs.
  ValueId feed_forward(ValueId x, const LayerNames& names, std::int64_t number, const std::string& layer);
  // For operators of the family's own.
  Graph& graph() { return graph_; }
  // Last of all: the head, which is the embedding's table where the configuration ties the two. Checks that no tensor
  // is left, and gives the graph away.
  Graph finish(ValueId x, const std::string& head);

 private:
  ValueId weight(const std::string& tensor, const std::vector<std::int64_t>& shape);
  ValueId reshape(ValueId x, Shape shape);
  ValueId rope_table(ValueId first_half, ValueId second_half);
  void build_position_values(ValueId ids);
  void check_head_dim(const LayerNames& first_layer) const;
  std::int64_t rotary_dim() const { return config_.rotary_dim == 0 ? config_.head_dim : config_.rotary_dim; }
  ValueId slice(ValueId x, std::int64_t axis, std::int64_t begin, std::int64_t end);
  ValueId rope(ValueId heads);
  ValueId experts(ValueId x, const LayerNames& names, const std::string& layer);

  const ModelConfig& config_;
  ModelWeights& weights_;
  Dim seq_;
  Graph graph_;
  ValueId table_ = -1;
  ValueId cos_ = -1;
  ValueId signed_sin_ = -1;
  ValueId mask_ = -1;
};

// The decoder that all families share: pre-norm layers of attention and a gated MLP, or experts.
Graph build_decoder(const ModelConfig& config, const DecoderNames& names, const Checkpoint& checkpoint,
                    std::int64_t seq_len);

}  // namespace diffulex_edge
