#include "models/decoder.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "checkpoint/row_decoder.h"
#include "checkpoint/same_bytes.h"
#include "diffulex_edge/error.h"
#include "models/rope.h"

namespace diffulex_edge {

void ModelWeights::require(const std::string& tensor, const std::vector<std::int64_t>& shape) {
  const StoredWeight stored = find(tensor);
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
}

// Quantizers give every layer a bias, of zeros where the model has none.
bool ModelWeights::is_empty_bias(std::string_view name, const TensorView& view) const {
  constexpr std::string_view kEnding = ".bias";
  if (!name.ends_with(kEnding) || view.decoder != nullptr) {
    return false;
  }
  const std::string prefix(name.substr(0, name.size() - kEnding.size()));
  const TensorView* weight = checkpoint_.find(prefix + ".weight");
  return weight != nullptr && weight->decoder != nullptr &&
         std::ranges::all_of(view.bytes, [](std::byte byte) { return byte == std::byte{0}; });
}

void ModelWeights::check_all_used() const {
  for (const auto& [name, view] : checkpoint_.tensors()) {
    const bool may_be_there = (!unused_.empty() && name.starts_with(unused_)) || name.ends_with("rotary_emb.inv_freq");
    if (!may_be_there && !used_.contains(name) && !is_empty_bias(name, view)) {
      throw Error(ErrorCode::kUnsupported, view.where(), "has no place in the model that config.json describes");
    }
  }
}

void ModelWeights::require_head(const std::string& tensor) const {
  if (!has(tensor)) {
    throw Error(
        ErrorCode::kBadFile, checkpoint_.path().string(), "the checkpoint has no tensor '" + tensor + "'",
        "if the head is the embedding's table, config.json has to say so: \"tie_word_embeddings\": true (LLaDA: "
        "\"weight_tying\")");
  }
}

void ModelWeights::check_tied(const std::string& embedding_name, const std::string& head_name) const {
  const TensorView* head = checkpoint_.find(head_name);
  const TensorView* embedding = checkpoint_.find(embedding_name);
  if (head == nullptr || embedding == nullptr) {
    return;
  }
  const TensorView* head_scale = checkpoint_.find(head->name + "_scale");
  const TensorView* embedding_scale = checkpoint_.find(embedding->name + "_scale");
  const bool scales_agree = head_scale == nullptr || embedding_scale == nullptr
                                ? head_scale == embedding_scale
                                : same_bytes(*head_scale, *embedding_scale);
  const bool decoders_agree = head->decoder == nullptr || embedding->decoder == nullptr
                                  ? head->decoder == embedding->decoder
                                  : head->decoder->equals(*embedding->decoder);
  if (head->dtype != embedding->dtype || !same_bytes(*head, *embedding) || !scales_agree || !decoders_agree) {
    throw Error(ErrorCode::kBadFile, head->where(), "differs from the embedding, but config.json ties the two",
                "remove the tensor, or set the tie to false if the head counts");
  }
}

bool ExpertConfig::is_dense(std::int64_t layer) const {
  return layer < first_dense || (layer + 1) % sparse_step != 0 || std::ranges::binary_search(dense_layers, layer);
}

DecoderParts::DecoderParts(const ModelConfig& config, ModelWeights& weights, std::int64_t seq_len)
    : config_(config), weights_(weights), seq_({.value = seq_len, .is_sequence = true}) {}

ValueId DecoderParts::embed_tokens(const std::string& name, const LayerNames& first_layer) {
  const ValueId ids = graph_.input("input_ids", DType::kI64, {{.value = 1}, seq_});
  table_ = weight(name + ".weight", {config_.vocab_size, config_.hidden_size});
  const ValueId x = graph_.add(Op::kEmbedding, {table_, ids}, NoAttributes{}, "embedding");
  check_head_dim(first_layer);
  build_position_values(ids);
  return x;
}

ValueId DecoderParts::weight(const std::string& tensor, const std::vector<std::int64_t>& shape) {
  weights_.require(tensor, shape);
  return graph_.weight(tensor, static_shape(shape));
}

// Rotary tables are sized from the configuration: it must agree with a tensor first.
void DecoderParts::check_head_dim(const LayerNames& first_layer) const {
  const bool is_fused = !first_layer.qkv_proj.empty();
  const StoredWeight q_proj = weights_.find((is_fused ? first_layer.qkv_proj : first_layer.q_proj) + ".weight");
  const std::int64_t heads = config_.num_heads + (is_fused ? 2 * config_.num_kv_heads : 0);
  const auto rows = checked_multiply(heads, config_.head_dim);
  if (!rows || *rows != q_proj.rows) {
    throw Error(ErrorCode::kBadFile, q_proj.values->where(),
                "has " + std::to_string(q_proj.rows) + " rows, config.json asks for " + std::to_string(heads) +
                    " heads of " + std::to_string(config_.head_dim));
  }
}

// Rotary tables and the mask depend only on positions: made once, used by every layer.
void DecoderParts::build_position_values(ValueId ids) {
  const ValueId positions = graph_.add(Op::kPositions, {ids});
  const Dim half = {.value = rotary_dim() / 2};
  const ValueId frequencies =
      graph_.constant(rope_inverse_frequencies(config_.rope, rotary_dim()), {{.value = 1}, half});
  const ValueId angles = graph_.add(Op::kMultiply, {reshape(positions, {seq_, {.value = 1}}), frequencies});
  const ValueId sin = graph_.add(Op::kSin, {angles});
  const ValueId cos = graph_.add(Op::kCos, {angles});
  cos_ = rope_table(cos, cos);
  signed_sin_ = rope_table(graph_.add(Op::kNegate, {sin}), sin);
  if (config_.block_length > 0) {
    mask_ =
        graph_.add(Op::kBlockCausalMask, {positions}, BlockCausalMaskAttributes{.block_length = config_.block_length});
  }
}

ValueId DecoderParts::rope_table(ValueId first_half, ValueId second_half) {
  ValueId table = graph_.add(Op::kConcat, {first_half, second_half}, AxesAttributes{.axes = {1}});
  const auto factor = static_cast<float>(config_.rope.attention_factor);
  if (factor != 1.0F) {
    table = graph_.add(Op::kMultiply, {table, graph_.constant({factor}, {{.value = 1}})});
  }
  return reshape(table, {seq_, {.value = 1}, {.value = rotary_dim()}});
}

ValueId DecoderParts::reshape(ValueId x, Shape shape) {
  return graph_.add(Op::kReshape, {x}, ShapeAttributes{.shape = std::move(shape)});
}

ValueId DecoderParts::norm(ValueId x, const std::string& name, std::int64_t size, std::string layer) {
  const auto epsilon = static_cast<float>(config_.rms_norm_eps);
  return graph_.add(Op::kRmsNorm, {x, weight(name + ".weight", {size})}, RmsNormAttributes{.epsilon = epsilon},
                    std::move(layer));
}

ValueId DecoderParts::linear(ValueId x, const std::string& name, std::int64_t out, std::int64_t in, bool bias,
                             std::string layer) {
  std::vector<ValueId> inputs = {x, weight(name + ".weight", {out, in})};
  if (bias) {
    inputs.push_back(weight(name + ".bias", {out}));
  }
  return graph_.add(Op::kLinear, std::move(inputs), NoAttributes{}, std::move(layer));
}

ValueId DecoderParts::attention(ValueId x, const LayerNames& names, const std::string& layer) {
  const std::int64_t hidden = config_.hidden_size;
  const auto heads_of = [&](const std::string& name, std::int64_t heads, const std::string& role) {
    const ValueId projected = linear(x, name, heads * config_.head_dim, hidden, config_.qkv_bias, layer + role);
    return reshape(projected, {seq_, {.value = heads}, {.value = config_.head_dim}});
  };
  ValueId q = -1;
  ValueId k = -1;
  ValueId v = -1;
  if (names.qkv_proj.empty()) {
    q = heads_of(names.q_proj, config_.num_heads, "q_proj");
    k = heads_of(names.k_proj, config_.num_kv_heads, "k_proj");
    v = heads_of(names.v_proj, config_.num_kv_heads, "v_proj");
  } else {
    const std::int64_t keys = config_.num_heads;
    const std::int64_t values = keys + config_.num_kv_heads;
    const std::int64_t end = values + config_.num_kv_heads;
    const ValueId all = heads_of(names.qkv_proj, end, "qkv_proj");
    q = slice(all, 1, 0, keys);
    k = slice(all, 1, keys, values);
    v = slice(all, 1, values, end);
  }
  if (config_.qk_norm) {
    q = norm(q, names.q_norm, config_.head_dim, layer + "q_norm");
    k = norm(k, names.k_norm, config_.head_dim, layer + "k_norm");
  }
  q = rope(q);
  k = rope(k);
  std::vector<ValueId> inputs = {q, k, v};
  if (mask_ >= 0) {
    inputs.push_back(mask_);
  }
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config_.head_dim)));
  const ValueId mixed = graph_.add(Op::kAttention, std::move(inputs), AttentionAttributes{.scale = scale});
  return linear(mixed, names.o_proj, hidden, config_.num_heads * config_.head_dim, config_.attention_output_bias,
                layer + "o_proj");
}

ValueId DecoderParts::slice(ValueId x, std::int64_t axis, std::int64_t begin, std::int64_t end) {
  return graph_.add(Op::kSlice, {x}, SliceAttributes{.axis = axis, .begin = begin, .end = end});
}

// Of heads [seq, heads, head_dim], of which the first rotary_dim elements turn.
ValueId DecoderParts::rope(ValueId heads) {
  if (rotary_dim() == config_.head_dim) {
    return graph_.add(Op::kRope, {heads, cos_, signed_sin_});
  }
  const ValueId first = slice(heads, 2, 0, rotary_dim());
  const ValueId turned = graph_.add(Op::kRope, {first, cos_, signed_sin_});
  const ValueId rest = slice(heads, 2, rotary_dim(), config_.head_dim);
  return graph_.add(Op::kConcat, {turned, rest}, AxesAttributes{.axes = {2}});
}

ValueId DecoderParts::feed_forward(ValueId x, const LayerNames& names, std::int64_t number, const std::string& layer) {
  if (config_.experts.count > 0 && !config_.experts.is_dense(number)) {
    return experts(x, names, layer);
  }
  return gated_mlp(x, {names.gate_proj, names.up_proj, names.down_proj}, config_.intermediate_size, layer);
}

ValueId DecoderParts::experts(ValueId x, const LayerNames& names, const std::string& layer) {
  const ExpertConfig& config = config_.experts;
  const auto mlp_of = [](const std::string& prefix) {
    return MlpNames{prefix + "gate_proj", prefix + "up_proj", prefix + "down_proj"};
  };
  std::vector<ValueId> routing = {linear(x, names.router, config.count, config_.hidden_size, false, layer + "router")};
  if (config.has_router_bias) {
    routing.push_back(weight(names.router_bias, {config.count}));
  }
  const ValueId routes = graph_.add(Op::kRoute, std::move(routing), config.route, layer + "route");
  std::vector<ValueId> sum;  // one, once there is a first expert
  for (std::int64_t i = 0; i < config.count; ++i) {
    const ExpertAttributes expert{.expert = i};
    const std::string number = std::to_string(i) + ".";
    const std::string name = "experts." + number;
    const ValueId chosen = graph_.add(Op::kDispatch, {x, routes}, expert);
    std::vector<ValueId> parts = {
        gated_mlp(chosen, mlp_of(names.experts + number), config.intermediate_size, layer + name), routes};
    parts.insert(parts.end(), sum.begin(), sum.end());
    sum = {graph_.add(Op::kCombine, std::move(parts), expert)};
  }
  if (config.shared_intermediate_size == 0) {
    return sum.front();
  }
  const ValueId shared =
      gated_mlp(x, mlp_of(names.shared_experts), config.shared_intermediate_size, layer + "shared_experts.");
  return add(sum.front(), shared);
}

ValueId DecoderParts::gated_mlp(ValueId x, const MlpNames& names, std::int64_t inner, const std::string& layer) {
  const std::int64_t hidden = config_.hidden_size;
  const ValueId gate = linear(x, names.gate_proj, inner, hidden, config_.mlp_bias, layer + "gate_proj");
  const ValueId up = linear(x, names.up_proj, inner, hidden, config_.mlp_bias, layer + "up_proj");
  return linear(graph_.add(Op::kSwiGlu, {gate, up}), names.down_proj, hidden, inner, config_.mlp_bias,
                layer + "down_proj");
}

ValueId DecoderParts::add(ValueId a, ValueId b) { return graph_.add(Op::kAdd, {a, b}); }

Graph DecoderParts::finish(ValueId x, const std::string& head) {
  if (!config_.tie_word_embeddings) {
    weights_.require_head(head + ".weight");
  }
  const ValueId table =
      config_.tie_word_embeddings ? table_ : weight(head + ".weight", {config_.vocab_size, config_.hidden_size});
  std::vector<ValueId> inputs = {x, table};
  if (config_.head_bias) {
    inputs.push_back(weight(head + ".bias", {config_.vocab_size}));
  }
  graph_.set_output(graph_.add(Op::kLinear, std::move(inputs), NoAttributes{}, "lm_head"), "logits");
  if (config_.tie_word_embeddings) {
    weights_.allow_unused(head + ".weight");
  }
  weights_.check_all_used();
  return std::move(graph_);
}

Graph build_decoder(const ModelConfig& config, const DecoderNames& names, const Checkpoint& checkpoint,
                    std::int64_t seq_len) {
  ModelWeights weights(checkpoint);
  if (config.tie_word_embeddings) {
    weights.check_tied(names.embedding + ".weight", names.head + ".weight");
  }
  // A tied table is stored once, under either of its names.
  const bool is_stored_as_head =
      config.tie_word_embeddings && !weights.has(names.embedding + ".weight") && weights.has(names.head + ".weight");
  DecoderParts parts(config, weights, seq_len);
  ValueId x = parts.embed_tokens(is_stored_as_head ? names.head : names.embedding, names.layer(0));
  for (std::int64_t number = 0; number < config.num_layers; ++number) {
    const LayerNames tensors = names.layer(number);
    const std::string layer = "layers." + std::to_string(number) + ".";
    const ValueId normed = parts.norm(x, tensors.input_norm, config.hidden_size, layer + "input_norm");
    x = parts.add(x, parts.attention(normed, tensors, layer));
    const ValueId attended =
        parts.norm(x, tensors.post_attention_norm, config.hidden_size, layer + "post_attention_norm");
    x = parts.add(x, parts.feed_forward(attended, tensors, number, layer));
  }
  return parts.finish(parts.norm(x, names.norm, config.hidden_size, "norm"), names.head);
}

}  // namespace diffulex_edge
