// Builds the graph that all supported architectures share: a pre-norm decoder with rotary embedding, grouped-query
// attention and a gated MLP, in the variants that ModelConfig spells out.

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <utility>

#include "checkpoint/same_bytes.h"
#include "checkpoint/stored_weight.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/model.h"
#include "models/architecture.h"
#include "models/parsed_config.h"

namespace diffulex_edge {
namespace {

constexpr std::int64_t kDefaultSeqLen = 1024;
constexpr std::int64_t kMaxSeqLen = std::int64_t{1} << 20U;

class DecoderBuilder {
 public:
  DecoderBuilder(const ModelConfig& config, const DecoderNames& names, const Checkpoint& checkpoint,
                 std::int64_t seq_len)
      : config_(config), names_(names), checkpoint_(checkpoint), seq_({.value = seq_len, .is_sequence = true}) {}

  Graph build() {
    const ValueId ids = graph_.input("input_ids", DType::kI64, {{.value = 1}, seq_});
    const std::string embedding_tensor = names_.embedding + ".weight";
    const ValueId table = weight(embedding_tensor, {config_.vocab_size, config_.hidden_size});
    ValueId x = graph_.add(Op::kEmbedding, {table, ids}, NoAttributes{}, "embedding");
    check_head_dim();
    build_position_values(ids);
    for (std::int64_t layer = 0; layer < config_.num_layers; ++layer) {
      x = decoder_layer(x, names_.layer(layer), "layers." + std::to_string(layer) + ".");
    }
    x = norm(x, names_.norm, config_.hidden_size, "norm");
    const ValueId head = config_.tie_word_embeddings
                             ? table
                             : weight(names_.head + ".weight", {config_.vocab_size, config_.hidden_size});
    std::vector<ValueId> inputs = {x, head};
    if (config_.head_bias) {
      inputs.push_back(weight(names_.head + ".bias", {config_.vocab_size}));
    }
    graph_.set_output(graph_.add(Op::kLinear, std::move(inputs), NoAttributes{}, "lm_head"), "logits");
    check_nothing_left();
    return std::move(graph_);
  }

 private:
  // The tensor must be in the checkpoint with exactly this shape.
  ValueId weight(const std::string& tensor, const std::vector<std::int64_t>& shape) {
    const StoredWeight stored = find_stored_weight(checkpoint_, tensor);
    const std::vector<std::int64_t> actual =
        stored.values->shape.size() == 1 ? std::vector{stored.columns} : std::vector{stored.rows, stored.columns};
    if (actual != shape) {
      throw Error(ErrorCode::kBadFile, stored.values->where(),
                  "has the shape " + to_string(static_shape(actual)) + ", config.json asks for " +
                      to_string(static_shape(shape)));
    }
    used_.insert(stored.values->name);
    if (stored.scales != nullptr) {
      used_.insert(stored.scales->name);
    }
    return graph_.weight(tensor, static_shape(shape));
  }

  // Rotary tables are sized from the configuration: it must agree with a tensor first.
  void check_head_dim() const {
    const StoredWeight q_proj = find_stored_weight(checkpoint_, names_.layer(0).q_proj + ".weight");
    const auto rows = checked_multiply(config_.num_heads, config_.head_dim);
    if (!rows || *rows != q_proj.rows) {
      throw Error(ErrorCode::kBadFile, q_proj.values->where(),
                  "has " + std::to_string(q_proj.rows) + " rows, config.json asks for " +
                      std::to_string(config_.num_heads) + " heads of " + std::to_string(config_.head_dim));
    }
  }

  ValueId norm(ValueId x, const std::string& name, std::int64_t size, std::string layer) {
    const auto epsilon = static_cast<float>(config_.rms_norm_eps);
    return graph_.add(Op::kRmsNorm, {x, weight(name + ".weight", {size})}, RmsNormAttributes{.epsilon = epsilon},
                      std::move(layer));
  }

  ValueId linear(ValueId x, const std::string& name, std::int64_t out, std::int64_t in, bool bias, std::string layer) {
    std::vector<ValueId> inputs = {x, weight(name + ".weight", {out, in})};
    if (bias) {
      inputs.push_back(weight(name + ".bias", {out}));
    }
    return graph_.add(Op::kLinear, std::move(inputs), NoAttributes{}, std::move(layer));
  }

  ValueId reshape(ValueId x, Shape shape) {
    return graph_.add(Op::kReshape, {x}, ShapeAttributes{.shape = std::move(shape)});
  }

  // Rotary tables and the mask depend on positions alone: made once, used by every layer.
  void build_position_values(ValueId ids) {
    const ValueId positions = graph_.add(Op::kPositions, {ids});
    const Dim half = {.value = config_.head_dim / 2};
    const ValueId frequencies =
        graph_.constant(rope_inverse_frequencies(config_.rope, config_.head_dim), {{.value = 1}, half});
    const ValueId angles = graph_.add(Op::kMultiply, {reshape(positions, {seq_, {.value = 1}}), frequencies});
    const ValueId sin = graph_.add(Op::kSin, {angles});
    const ValueId cos = graph_.add(Op::kCos, {angles});
    cos_ = rope_table(cos, cos);
    signed_sin_ = rope_table(graph_.add(Op::kNegate, {sin}), sin);
    if (config_.block_length > 0) {
      mask_ = graph_.add(Op::kBlockCausalMask, {positions},
                         BlockCausalMaskAttributes{.block_length = config_.block_length});
    }
  }

  ValueId rope_table(ValueId first_half, ValueId second_half) {
    ValueId table = graph_.add(Op::kConcat, {first_half, second_half}, AxesAttributes{.axes = {1}});
    const auto factor = static_cast<float>(config_.rope.attention_factor);
    if (factor != 1.0F) {
      table = graph_.add(Op::kMultiply, {table, graph_.constant({factor}, {{.value = 1}})});
    }
    return reshape(table, {seq_, {.value = 1}, {.value = config_.head_dim}});
  }

  ValueId decoder_layer(ValueId x, const LayerNames& names, const std::string& layer) {
    const ValueId attended =
        attention(norm(x, names.input_norm, config_.hidden_size, layer + "input_norm"), names, layer);
    x = graph_.add(Op::kAdd, {x, attended});
    const ValueId normed = norm(x, names.post_attention_norm, config_.hidden_size, layer + "post_attention_norm");
    const std::int64_t hidden = config_.hidden_size;
    const std::int64_t inner = config_.intermediate_size;
    const ValueId gate = linear(normed, names.gate_proj, inner, hidden, config_.mlp_bias, layer + "gate_proj");
    const ValueId up = linear(normed, names.up_proj, inner, hidden, config_.mlp_bias, layer + "up_proj");
    const ValueId product = graph_.add(Op::kSwiGlu, {gate, up});
    const ValueId down = linear(product, names.down_proj, hidden, inner, config_.mlp_bias, layer + "down_proj");
    return graph_.add(Op::kAdd, {x, down});
  }

  ValueId attention(ValueId x, const LayerNames& names, const std::string& layer) {
    const std::int64_t hidden = config_.hidden_size;
    const auto heads_of = [&](const std::string& name, std::int64_t heads, const std::string& role) {
      const ValueId projected = linear(x, name, heads * config_.head_dim, hidden, config_.qkv_bias, layer + role);
      return reshape(projected, {seq_, {.value = heads}, {.value = config_.head_dim}});
    };
    ValueId q = heads_of(names.q_proj, config_.num_heads, "q_proj");
    ValueId k = heads_of(names.k_proj, config_.num_kv_heads, "k_proj");
    const ValueId v = heads_of(names.v_proj, config_.num_kv_heads, "v_proj");
    if (config_.qk_norm) {
      q = norm(q, names.q_norm, config_.head_dim, layer + "q_norm");
      k = norm(k, names.k_norm, config_.head_dim, layer + "k_norm");
    }
    q = graph_.add(Op::kRope, {q, cos_, signed_sin_});
    k = graph_.add(Op::kRope, {k, cos_, signed_sin_});
    std::vector<ValueId> inputs = {q, k, v};
    if (mask_ >= 0) {
      inputs.push_back(mask_);
    }
    const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config_.head_dim)));
    const ValueId mixed = graph_.add(Op::kAttention, std::move(inputs), AttentionAttributes{.scale = scale});
    return linear(mixed, names.o_proj, hidden, config_.num_heads * config_.head_dim, config_.attention_output_bias,
                  layer + "o_proj");
  }

  // A tensor that the configuration has no place for (a bias, an expert, one more layer) would change the result.
  void check_nothing_left() const {
    for (const auto& [name, view] : checkpoint_.tensors()) {
      const bool tied_head = config_.tie_word_embeddings && name.starts_with(names_.head + ".weight");
      if (!used_.contains(name) && !tied_head && !name.ends_with("rotary_emb.inv_freq")) {
        throw Error(ErrorCode::kUnsupported, view.where(), "has no place in the model that config.json describes");
      }
    }
  }

  const ModelConfig& config_;
  const DecoderNames& names_;
  const Checkpoint& checkpoint_;
  Dim seq_;
  Graph graph_;
  ValueId cos_ = -1;
  ValueId signed_sin_ = -1;
  ValueId mask_ = -1;
  std::set<std::string> used_;
};

std::int64_t choose_seq_len(const ModelConfig& config, const ModelOptions& options,
                            std::vector<std::string>& warnings) {
  if (!options.seq_len) {
    return std::min(config.max_positions, kDefaultSeqLen);
  }
  const std::int64_t seq_len = *options.seq_len;
  if (seq_len < 1 || seq_len > kMaxSeqLen) {
    throw Error(ErrorCode::kInvalidArgument, "sequence length", std::to_string(seq_len) + " is not in 1..1048576");
  }
  if (seq_len > config.max_positions) {
    warnings.push_back("the sequence length " + std::to_string(seq_len) + " is beyond the " +
                       std::to_string(config.max_positions) + " positions that the model was made for");
  }
  return seq_len;
}

// Where a configuration ties the head to the embedding and the file has both, readers disagree which one counts.
void check_tied_head(const ParsedConfig& parsed, const Checkpoint& checkpoint) {
  const TensorView* head = checkpoint.find(parsed.names.head + ".weight");
  const TensorView* embedding = checkpoint.find(parsed.names.embedding + ".weight");
  if (!parsed.config.tie_word_embeddings || head == nullptr || embedding == nullptr) {
    return;
  }
  const TensorView* head_scale = checkpoint.find(head->name + "_scale");
  const TensorView* embedding_scale = checkpoint.find(embedding->name + "_scale");
  const bool scales_agree = head_scale == nullptr || embedding_scale == nullptr
                                ? head_scale == embedding_scale
                                : same_bytes(*head_scale, *embedding_scale);
  if (head->dtype != embedding->dtype || !same_bytes(*head, *embedding) || !scales_agree) {
    throw Error(ErrorCode::kBadFile, head->where(), "differs from the embedding, but config.json ties the two",
                "remove the tensor, or set the tie to false if the head counts");
  }
}

// Ranges that belong to no layer were measured on another model.
void check_activations(const Model& model) {
  if (!model.stored_quantization) {
    return;
  }
  for (const auto& [layer, unused] : model.stored_quantization->activations) {
    const bool known = std::ranges::any_of(
        model.graph.nodes(), [&](const Node& node) { return node.op == Op::kLinear && node.name == layer; });
    if (!known) {
      throw Error(ErrorCode::kBadFile, (model.path / "config.json").string() + ": 'quantization_config': 'activations'",
                  "names '" + layer + "', which is no linear layer of this model");
    }
  }
}

}  // namespace

Model load_model(const std::filesystem::path& folder, const ModelOptions& options) {
  const ParsedConfig parsed = parse_config(folder, options);
  Model model{.path = folder, .config = parsed.config};
  if (options.mask_token_id) {
    if (*options.mask_token_id < 0 || *options.mask_token_id >= model.config.vocab_size) {
      throw Error(ErrorCode::kInvalidArgument, "mask token",
                  std::to_string(*options.mask_token_id) + " is not in the vocabulary of " +
                      std::to_string(model.config.vocab_size));
    }
    model.config.mask_token_id = options.mask_token_id;
  }
  model.seq_len = choose_seq_len(parsed.config, options, model.warnings);
  model.stored_quantization = parsed.quantization;
  model.checkpoint = std::make_shared<const Checkpoint>(folder);
  check_tied_head(parsed, *model.checkpoint);
  model.graph = DecoderBuilder(model.config, parsed.names, *model.checkpoint, model.seq_len).build();
  check_activations(model);
  return model;
}

}  // namespace diffulex_edge
