#include "models/gguf_architecture.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

#include "diffulex_edge/error.h"
#include "model_files/gguf_config.h"
#include "models/rope.h"

namespace diffulex_edge {
namespace {

[[noreturn]] void refuse(const ModelConfig& config, const std::string& what, const std::string& advice = {}) {
  throw Error(ErrorCode::kUnsupported, config.architecture,
              what + ", which no architecture of llama.cpp that GGUF is written for computes", advice);
}

bool is_bidirectional(const ModelConfig& config) { return config.block_length == 0; }

bool shifts_logits(const ModelConfig& config) {
  return config.family == "dream" || config.family == "open_dcoder" || config.family == "rnd1";
}

// What none of them has.
void check_common(const ModelConfig& config) {
  if (config.block_length > 1) {
    refuse(config, "is block-causal, in blocks of " + std::to_string(config.block_length),
           "--block-length 1 or 0 says that it is not");
  }
  if (config.rotary_dim != 0 && config.rotary_dim != config.head_dim) {
    refuse(config, "turns " + std::to_string(config.rotary_dim) + " of each head's " + std::to_string(config.head_dim) +
                       " elements");
  }
  if (config.head_bias) {
    refuse(config, "has a bias of its head");
  }
}

std::string architecture_with_experts(const ModelConfig& config) {
  const ExpertConfig& experts = config.experts;
  if (experts.route.score != RouteAttributes::Score::kSoftmax || experts.route.groups != 1 ||
      experts.route.scale != 1.0F || experts.has_router_bias) {
    refuse(config, "has a router that is not softmax over all experts");
  }
  if (experts.shared_intermediate_size != 0) {
    refuse(config, "has experts that all tokens share");
  }
  for (std::int64_t layer = 0; layer < config.num_layers; ++layer) {
    if (experts.is_dense(layer)) {
      refuse(config, "has no experts in layer " + std::to_string(layer));
    }
  }
  if (!config.qk_norm || config.qkv_bias) {
    refuse(config, "has experts behind another attention than Qwen3's");
  }
  if (!experts.route.normalizes) {
    if (!is_bidirectional(config) || config.head_dim * config.num_heads != config.hidden_size ||
        config.tie_word_embeddings) {
      refuse(config, "does not divide the chosen experts' weights by their sum");
    }
    return "llada-moe";
  }
  return is_bidirectional(config) ? "rnd1" : "qwen3moe";
}

std::string dense_architecture(const ModelConfig& config) {
  if (config.qk_norm) {
    if (config.qkv_bias || config.attention_output_bias || config.mlp_bias) {
      refuse(config, "has biases beside norms of queries and keys");
    }
    return "qwen3";
  }
  const bool has_square_heads = config.head_dim * config.num_heads == config.hidden_size;
  const bool has_output_biases = config.attention_output_bias || config.mlp_bias;
  // Qwen2's rotation is that of our rows; llama's, of neighbours, takes biases as well.
  const bool is_qwen2 = config.qkv_bias && !has_output_biases && config.family != "llada" && has_square_heads;
  if (!is_bidirectional(config)) {
    return is_qwen2 ? "qwen2" : "llama";
  }
  if (has_output_biases) {
    refuse(config, "is bidirectional and has biases of its output projections");
  }
  return is_qwen2 ? "dream" : "llada";
}

// What each architecture's own code does with the rotary frequencies.
void check_rope(const ModelConfig& config, const std::string& architecture) {
  const RopeConfig& rope = config.rope;
  if (rope.type == RopeConfig::Type::kLlama3 && architecture != "llama") {
    refuse(config, "has Llama 3's scaling of rotary frequencies in the layout of " + architecture);
  }
  if (rope.type != RopeConfig::Type::kYarn) {
    return;
  }
  constexpr double kTolerance = 1e-6;
  const double expected = 0.1 * std::log(std::max(1.0, rope.factor)) + 1.0;
  if (!rope.truncate || std::fabs(rope.attention_factor - expected) > kTolerance) {
    refuse(config, "has YaRN with an attention factor of its own, or without whole dimensions");
  }
}

void add_experts(const ModelConfig& config, const std::string& prefix, GgufHeader& header) {
  const ExpertConfig& experts = config.experts;
  const auto add = [&](std::string_view key, std::int64_t value) {
    header.add_integer(prefix + std::string(key), static_cast<std::uint32_t>(value));
  };
  add("expert_count", experts.count);
  add("expert_used_count", experts.route.experts_per_token);
  add("expert_feed_forward_length", experts.intermediate_size);
}

void add_rope(const ModelConfig& config, const std::string& prefix, GgufHeader& header) {
  const RopeConfig& rope = config.rope;
  header.add_integer(prefix + "rope.dimension_count", static_cast<std::uint32_t>(config.head_dim));
  header.add_number(prefix + "rope.freq_base", static_cast<float>(rope.theta));
  // The rule itself is in no key, and readers suppose that of the published models.
  constexpr std::int64_t kLlama3Positions = 8192;
  if (rope.type == RopeConfig::Type::kLlama3 && rope.original_max_positions != kLlama3Positions) {
    header.add_integer(prefix + "rope.scaling.original_context_length",
                       static_cast<std::uint32_t>(rope.original_max_positions));
  }
  if (rope.type == RopeConfig::Type::kLinear || rope.type == RopeConfig::Type::kYarn) {
    const bool is_yarn = rope.type == RopeConfig::Type::kYarn;
    header.add_text(prefix + "rope.scaling.type", is_yarn ? "yarn" : "linear");
    header.add_number(prefix + "rope.scaling.factor", static_cast<float>(rope.factor));
    if (is_yarn) {
      header.add_integer(prefix + "rope.scaling.original_context_length",
                         static_cast<std::uint32_t>(rope.original_max_positions));
      header.add_number(prefix + "rope.scaling.yarn_beta_fast", static_cast<float>(rope.beta_fast));
      header.add_number(prefix + "rope.scaling.yarn_beta_slow", static_cast<float>(rope.beta_slow));
    }
  }
}

struct LayerName {
  std::string_view canonical;
  std::string_view gguf;
};
constexpr std::array kLayers = {
    LayerName{"input_norm", "attn_norm"}, LayerName{"q_proj", "attn_q"},
    LayerName{"k_proj", "attn_k"},        LayerName{"v_proj", "attn_v"},
    LayerName{"o_proj", "attn_output"},   LayerName{"q_norm", "attn_q_norm"},
    LayerName{"k_norm", "attn_k_norm"},   LayerName{"post_attention_norm", "ffn_norm"},
    LayerName{"gate_proj", "ffn_gate"},   LayerName{"up_proj", "ffn_up"},
    LayerName{"down_proj", "ffn_down"},   LayerName{"router", "ffn_gate_inp"},
};
constexpr std::array kOutside = {
    LayerName{"embedding", "token_embd"},
    LayerName{"norm", "output_norm"},
    LayerName{"lm_head", "output"},
};

template <std::size_t N>
std::string_view gguf_name_of(const std::array<LayerName, N>& names, std::string_view layer) {
  const auto found = std::ranges::find(names, layer, &LayerName::canonical);
  if (found == names.end()) {
    throw Error(ErrorCode::kInternal, std::string(layer), "has no name in GGUF");
  }
  return found->gguf;
}

bool rotates_neighbours(std::string_view architecture) { return architecture == "llama" || architecture == "llada"; }

}  // namespace

std::string gguf_architecture(const ModelConfig& config) {
  check_common(config);
  std::string architecture = config.experts.count > 0 ? architecture_with_experts(config) : dense_architecture(config);
  check_rope(config, architecture);
  return architecture;
}

void add_gguf_settings(const ModelConfig& config, GgufHeader& header) {
  const std::string architecture = gguf_architecture(config);
  const std::string prefix = architecture + ".";
  const auto add = [&](std::string_view key, std::int64_t value) {
    header.add_integer(prefix + std::string(key), static_cast<std::uint32_t>(value));
  };
  const bool has_experts = config.experts.count > 0;
  add("block_count", config.num_layers);
  add("context_length", config.max_positions);
  add("embedding_length", config.hidden_size);
  add("feed_forward_length",
      has_experts && config.intermediate_size == 0 ? config.experts.intermediate_size : config.intermediate_size);
  add("attention.head_count", config.num_heads);
  add("attention.head_count_kv", config.num_kv_heads);
  add("attention.key_length", config.head_dim);
  add("attention.value_length", config.head_dim);
  header.add_number(prefix + "attention.layer_norm_rms_epsilon", static_cast<float>(config.rms_norm_eps));
  add("vocab_size", config.vocab_size);
  add_rope(config, prefix, header);
  if (has_experts) {
    add_experts(config, prefix, header);
  }
  if (is_bidirectional(config)) {
    header.add_boolean(prefix + "attention.causal", false);
    header.add_boolean("diffusion.shift_logits", shifts_logits(config));
  }
}

GgufPlace gguf_place(const ModelConfig& config, std::string_view layer, std::string_view kind) {
  const std::string ending = "." + std::string(kind);
  constexpr std::string_view kLayer = "layers.";
  if (!layer.starts_with(kLayer)) {
    return {.tensor = std::string(gguf_name_of(kOutside, layer)) + ending};
  }
  const std::size_t number_end = layer.find('.', kLayer.size());
  const std::string block = "blk." + std::string(layer.substr(kLayer.size(), number_end - kLayer.size())) + ".";
  std::string_view name = layer.substr(number_end + 1);
  constexpr std::string_view kExperts = "experts.";
  if (name.starts_with(kExperts)) {
    name.remove_prefix(kExperts.size());
    const std::size_t dot = name.find('.');
    return {.tensor = block + std::string(gguf_name_of(kLayers, name.substr(dot + 1))) + "_exps" + ending,
            .part = std::stoll(std::string(name.substr(0, dot)))};
  }
  GgufPlace place{.tensor = block + std::string(gguf_name_of(kLayers, name)) + ending};
  if (rotates_neighbours(gguf_architecture(config))) {
    if (name == "q_proj") {
      place.heads = config.num_heads;
    } else if (name == "k_proj") {
      place.heads = config.num_kv_heads;
    }
  }
  return place;
}

std::vector<float> gguf_rope_factors(const ModelConfig& config) {
  const RopeConfig& rope = config.rope;
  if (rope.type != RopeConfig::Type::kLlama3) {
    return {};
  }
  const std::vector<double> factors = llama3_factors({.theta = rope.theta,
                                                      .head_dim = config.head_dim,
                                                      .factor = rope.factor,
                                                      .low_frequency = rope.low_freq_factor,
                                                      .high_frequency = rope.high_freq_factor,
                                                      .positions = static_cast<double>(rope.original_max_positions)});
  return {factors.begin(), factors.end()};
}

}  // namespace diffulex_edge
