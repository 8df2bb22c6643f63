#include "model_files/gguf_config.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <numbers>
#include <set>
#include <string>

#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

using nlohmann::json;

struct Family {
  std::string_view gguf;
  std::string_view model_type;
  std::string_view architecture;
};

constexpr std::array kFamilies = {
    Family{"llama", "llama", "LlamaForCausalLM"},    Family{"qwen2", "qwen2", "Qwen2ForCausalLM"},
    Family{"qwen3", "qwen3", "Qwen3ForCausalLM"},    Family{"dream", "Dream", "DreamModel"},
    Family{"llada", "llada", "LLaDAModelLM"},        Family{"qwen3moe", "qwen3_moe", "Qwen3MoeForCausalLM"},
    Family{"llada-moe", "llada", "LLaDAMoEModelLM"}, Family{"rnd1", "rnd1", "RND1LM"},
};
// The same networks with a full mask, whose samplers do not shift logits.
constexpr std::array kA2dFamilies = {
    Family{"llama", "a2d-llama", "A2DLlamaLMHeadModel"},
    Family{"qwen2", "a2d-qwen2", "A2DQwen2LMHeadModel"},
    Family{"dream", "a2d-qwen2", "A2DQwen2LMHeadModel"},
    Family{"qwen3", "a2d-qwen3", "A2DQwen3LMHeadModel"},
};

[[noreturn]] void refuse(const GgufFile& file, const std::string& what) {
  throw Error(ErrorCode::kUnsupported, file.path().string(), what,
              "take the checkpoint that the file was made from, if it is one of the models that are read");
}

// One architecture's keys, "llama.block_count"; remembers which were read.
class Keys {
 public:
  Keys(const GgufFile& file, const std::string& architecture) : file_(file), prefix_(architecture + ".") {}

  std::string full(std::string_view key) const { return prefix_ + std::string(key); }

  bool has(std::string_view key) { return file_.has(note(key)); }
  std::int64_t require(std::string_view key) {
    const auto value = file_.integer(note(key));
    if (!value) {
      file_.fail(full(key), "is missing");
    }
    return *value;
  }
  std::int64_t integer(std::string_view key, std::int64_t fallback) {
    return file_.integer(note(key)).value_or(fallback);
  }
  // A float32 as the shortest decimal that stands for it: 1e-05, not the digits of its nearest double.
  json number(std::string_view key, double fallback) {
    const double value = file_.number(note(key)).value_or(fallback);
    if (!std::isfinite(value)) {
      file_.fail(full(key), "is not a finite number");
    }
    std::array<char, 32> text{};
    const auto end = std::to_chars(text.data(), text.data() + text.size(), static_cast<float>(value)).ptr;
    return json::parse(text.data(), end);
  }
  bool boolean(std::string_view key, bool fallback) { return file_.boolean(note(key)).value_or(fallback); }
  std::string text(std::string_view key, const std::string& fallback) {
    return file_.text(note(key)).value_or(fallback);
  }
  void ignore(std::initializer_list<std::string_view> keys) {
    for (const std::string_view key : keys) {
      note(key);
    }
  }
  // Those that nobody asked for.
  std::vector<std::string> unknown() const {
    std::vector<std::string> keys;
    for (const std::string& key : file_.keys()) {
      if (key.starts_with(prefix_) && !known_.contains(key)) {
        keys.push_back(key);
      }
    }
    return keys;
  }

 private:
  const std::string& note(std::string_view key) { return *known_.insert(full(key)).first; }

  const GgufFile& file_;
  std::string prefix_;
  std::set<std::string> known_;
};

const GgufTensor* find_tensor(const GgufFile& file, std::string_view name) {
  const auto found = std::ranges::find(file.tensors(), name, &GgufTensor::name);
  return found == file.tensors().end() ? nullptr : &*found;
}

std::int64_t vocabulary(const GgufFile& file) {
  const GgufTensor* embedding = find_tensor(file, "token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) {
    throw Error(ErrorCode::kBadFile, file.path().string(), "has no matrix 'token_embd.weight'");
  }
  return embedding->shape[0];
}

// The file has the factors of the frequencies, not the rule that made them: Llama 3's, with the settings of every
// published model, or none that is known.
json frequencies_by_rule(const GgufFile& file, const GgufTensor& tensor, double theta, std::int64_t head_dim,
                         std::int64_t original) {
  const auto count = static_cast<std::size_t>(std::max<std::int64_t>(0, head_dim / 2));
  const std::span<const std::byte> data = file.data();
  constexpr std::uint32_t kF32 = 0;
  if (tensor.type != kF32 || tensor.shape != std::vector{static_cast<std::int64_t>(count)} ||
      tensor.offset > data.size() || data.size() - tensor.offset < count * sizeof(float)) {
    throw Error(ErrorCode::kBadFile, file.path().string() + ": tensor '" + tensor.name + "'",
                "is not F32 with " + std::to_string(count) + " elements in the file");
  }
  std::vector<float> factors(count);
  std::memcpy(factors.data(), data.data() + tensor.offset, count * sizeof(float));
  const double largest = factors.empty() ? 1.0 : factors.back();
  const std::vector<double> expected = llama3_factors(
      {.theta = theta, .head_dim = head_dim, .factor = largest, .positions = static_cast<double>(original)});
  constexpr double kTolerance = 1e-5;
  for (std::size_t i = 0; i < count; ++i) {
    if (!(std::fabs(factors[i] - expected[i]) <= kTolerance * expected[i])) {
      refuse(file, "has factors of rotary frequencies ('rope_freqs.weight') that are not those of Llama 3's rule");
    }
  }
  return {{"rope_type", "llama3"},
          {"factor", largest},
          {"low_freq_factor", 1.0},
          {"high_freq_factor", 4.0},
          {"original_max_position_embeddings", original}};
}

json rope_scaling(const GgufFile& file, Keys& keys, double theta, std::int64_t head_dim) {
  const std::string type = keys.text("rope.scaling.type", "none");
  const std::int64_t original = keys.integer("rope.scaling.original_context_length", 0);
  const json factor = keys.number("rope.scaling.factor", 1.0);
  keys.ignore({"rope.scaling.finetuned"});
  if (const GgufTensor* tensor = find_tensor(file, "rope_freqs.weight")) {
    constexpr std::int64_t kLlama3Positions = 8192;
    return frequencies_by_rule(file, *tensor, theta, head_dim, original > 0 ? original : kLlama3Positions);
  }
  if (type == "none") {
    return nullptr;
  }
  json scaling = {{"rope_type", type}, {"factor", factor}};
  if (original > 0) {
    scaling["original_max_position_embeddings"] = original;
  }
  if (type == "yarn") {
    for (const auto& [gguf, name] :
         {std::pair{"rope.scaling.yarn_beta_fast", "beta_fast"}, std::pair{"rope.scaling.yarn_beta_slow", "beta_slow"},
          std::pair{"rope.scaling.yarn_attn_factor", "attention_factor"}}) {
      if (keys.has(gguf)) {
        scaling[name] = keys.number(gguf, 1.0);
      }
    }
  }
  return scaling;
}

struct Sizes {
  std::int64_t hidden = 0;
  std::int64_t layers = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t intermediate = 0;
  std::int64_t positions = 0;
  std::int64_t experts = 0;  // of a layer
  std::int64_t expert_intermediate = 0;
};

Sizes read_sizes(const GgufFile& file, Keys& keys) {
  Sizes sizes;
  sizes.hidden = keys.require("embedding_length");
  sizes.layers = keys.require("block_count");
  sizes.heads = keys.require("attention.head_count");
  sizes.kv_heads = keys.integer("attention.head_count_kv", sizes.heads);
  sizes.experts = keys.integer("expert_count", 0);
  sizes.expert_intermediate = keys.integer("expert_feed_forward_length", 0);
  sizes.intermediate = sizes.experts > 0 ? keys.integer("feed_forward_length", sizes.expert_intermediate)
                                         : keys.require("feed_forward_length");
  sizes.positions = keys.require("context_length");
  if (sizes.heads < 1) {
    file.fail(keys.full("attention.head_count"), "is " + std::to_string(sizes.heads));
  }
  sizes.head_dim = keys.integer("attention.key_length", sizes.hidden / sizes.heads);
  const std::int64_t value_dim = keys.integer("attention.value_length", sizes.head_dim);
  const std::int64_t rotated = keys.integer("rope.dimension_count", sizes.head_dim);
  if (value_dim != sizes.head_dim || rotated != sizes.head_dim) {
    refuse(file, "has keys of " + std::to_string(sizes.head_dim) + " elements, values of " + std::to_string(value_dim) +
                     " and rotates " + std::to_string(rotated) +
                     "; all three are the same in the models that are read");
  }
  return sizes;
}

// Ids that end a text: one, or that and the end of a turn.
json eos_ids(const GgufFile& file) {
  json ids = json::array();
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    const auto id = file.integer(key);
    if (id && std::ranges::find(ids, json(*id)) == ids.end()) {
      ids.push_back(*id);
    }
  }
  if (ids.empty()) {
    return nullptr;
  }
  return ids.size() == 1 ? ids.front() : ids;
}

json optional_id(const GgufFile& file, std::string_view key) {
  const auto id = file.integer(key);
  return id ? json(*id) : json(nullptr);
}

void add_common(const GgufFile& file, Keys& keys, const Family& family, json& config) {
  config["model_type"] = family.model_type;
  config["architectures"] = {family.architecture};
  config["vocab_size"] = vocabulary(file);
  config["rms_norm_eps"] = keys.number("attention.layer_norm_rms_epsilon", 1e-5);
  config["rope_theta"] = keys.number("rope.freq_base", 10000.0);
  config["mask_token_id"] = optional_id(file, "tokenizer.ggml.mask_token_id");
  config["bos_token_id"] = optional_id(file, "tokenizer.ggml.bos_token_id");
  config["eos_token_id"] = eos_ids(file);
  keys.ignore({"vocab_size", "pooling_type"});
}

json llada_config(const GgufFile& file, Keys& keys, const Sizes& sizes) {
  const json scaling = rope_scaling(file, keys, keys.number("rope.freq_base", 10000.0).get<double>(), sizes.head_dim);
  if (!scaling.is_null()) {
    refuse(file, "is a LLaDA whose rotary embedding is scaled");
  }
  return {{"d_model", sizes.hidden},
          {"n_layers", sizes.layers},
          {"n_heads", sizes.heads},
          {"n_kv_heads", sizes.kv_heads},
          {"mlp_hidden_size", sizes.intermediate},
          {"max_sequence_length", sizes.positions},
          {"weight_tying", find_tensor(file, "output.weight") == nullptr},
          {"include_bias", false},
          {"include_qkv_bias", find_tensor(file, "blk.0.attn_q.bias") != nullptr},
          {"block_type", "llama"},
          {"activation_type", "silu"},
          {"layer_norm_type", "rms"},
          {"bias_for_layer_norm", false},
          {"rope", true}};
}

json transformers_config(const GgufFile& file, Keys& keys, const Sizes& sizes) {
  const json scaling = rope_scaling(file, keys, keys.number("rope.freq_base", 10000.0).get<double>(), sizes.head_dim);
  return {{"hidden_size", sizes.hidden},
          {"num_hidden_layers", sizes.layers},
          {"num_attention_heads", sizes.heads},
          {"num_key_value_heads", sizes.kv_heads},
          {"head_dim", sizes.head_dim},
          {"intermediate_size", sizes.intermediate},
          {"max_position_embeddings", sizes.positions},
          {"hidden_act", "silu"},
          {"rope_scaling", scaling},
          {"tie_word_embeddings", find_tensor(file, "output.weight") == nullptr}};
}

// What llama.cpp's code of an architecture does, whatever the file says.
bool is_bidirectional(std::string_view architecture) {
  return architecture == "dream" || architecture == "llada" || architecture == "llada-moe" || architecture == "rnd1";
}
bool normalizes_experts(std::string_view architecture) { return architecture != "llada-moe"; }
bool has_experts(std::string_view architecture) {
  return architecture == "qwen3moe" || architecture == "llada-moe" || architecture == "rnd1";
}

// Keys of routers that these architectures do not have.
void check_router(const GgufFile& file, Keys& keys, std::string_view architecture) {
  constexpr std::int64_t kSoftmax = 1;
  const auto expect = [&](std::string_view key, std::int64_t value) {
    if (const std::int64_t found = keys.integer(key, value); found != value) {
      refuse(file, "has '" + keys.full(key) + "' " + std::to_string(found) + "; the models that are read have " +
                       std::to_string(value));
    }
  };
  for (const std::string_view key : {"expert_shared_count", "expert_shared_feed_forward_length"}) {
    expect(key, 0);
  }
  for (const std::string_view key : {"expert_group_count", "expert_group_used_count"}) {
    expect(key, 1);
  }
  expect("expert_gating_func", kSoftmax);
  const bool normalizes = normalizes_experts(architecture);
  if (keys.number("expert_weights_scale", 1.0) != 1.0 ||
      keys.boolean("expert_weights_norm", normalizes) != normalizes) {
    refuse(file, "scales or normalizes the weights of experts otherwise than llama.cpp's code of " +
                     std::string(architecture) + " does");
  }
}

json experts_config(const GgufFile& file, Keys& keys, const Sizes& sizes, const std::string& architecture) {
  check_router(file, keys, architecture);
  const std::int64_t width = keys.require("expert_feed_forward_length");
  json config = transformers_config(file, keys, sizes);
  config["num_experts"] = sizes.experts;
  config["num_experts_per_tok"] = keys.require("expert_used_count");
  if (architecture == "llada-moe") {
    config.erase("intermediate_size");
    config["dense_intermediate_size"] = sizes.intermediate;
    config["expert_intermediate_size"] = width;
    config["moe_layer_freq"] = std::vector<int>(
        static_cast<std::size_t>(std::clamp<std::int64_t>(sizes.layers, 0, std::ssize(file.tensors()))), 1);
    config["qk_layernorm"] = true;
  } else {
    config["moe_intermediate_size"] = width;
    config["norm_topk_prob"] = true;
  }
  return config;
}

const Family& find_family(const GgufFile& file, const std::string& architecture) {
  const auto* family = std::ranges::find(kFamilies, architecture, &Family::gguf);
  if (family == kFamilies.end()) {
    refuse(file, "is of the architecture \"" + architecture +
                     "\"; llama, qwen2, qwen3, qwen3moe, dream, llada, llada-moe and rnd1 are read from GGUF");
  }
  return *family;
}

// The family whose mask and sampler the keys ask for.
const Family& choose_family(const GgufFile& file, Keys& keys, const std::string& architecture) {
  const Family& family = find_family(file, architecture);
  const bool is_causal = keys.boolean("attention.causal", !is_bidirectional(architecture));
  const bool shifts_by_itself = architecture == "dream" || architecture == "rnd1";
  const bool shifts = file.boolean("diffusion.shift_logits").value_or(shifts_by_itself);
  const auto* a2d = std::ranges::find(kA2dFamilies, architecture, &Family::gguf);
  const bool is_a2d = a2d != kA2dFamilies.end() && !is_causal && !shifts;
  if (is_a2d) {
    return *a2d;
  }
  if (is_causal == is_bidirectional(architecture) || (!is_causal && shifts != shifts_by_itself)) {
    refuse(file, "has '" + keys.full("attention.causal") + "' " + (is_causal ? "true" : "false") +
                     " and 'diffusion.shift_logits' " + (shifts ? "true" : "false") +
                     ", which no model of the architecture " + architecture + " has");
  }
  return family;
}

}  // namespace

std::vector<double> llama3_factors(const Llama3Rule& rule) {
  std::vector<double> factors;
  for (std::int64_t i = 0; i < rule.head_dim / 2; ++i) {
    const double wavelength = 2.0 * std::numbers::pi *
                              std::pow(rule.theta, 2.0 * static_cast<double>(i) / static_cast<double>(rule.head_dim));
    if (wavelength < rule.positions / rule.high_frequency) {
      factors.push_back(1.0);
    } else if (wavelength > rule.positions / rule.low_frequency) {
      factors.push_back(rule.factor);
    } else {
      const double smooth =
          (rule.positions / wavelength - rule.low_frequency) / (rule.high_frequency - rule.low_frequency);
      factors.push_back(1.0 / ((1.0 - smooth) / rule.factor + smooth));
    }
  }
  return factors;
}

json gguf_config(const GgufFile& file) {
  const std::string architecture = file.text("general.architecture").value_or("");
  find_family(file, architecture);
  Keys keys(file, architecture);
  const Family& family = choose_family(file, keys, architecture);
  const Sizes sizes = read_sizes(file, keys);
  if ((sizes.experts > 0) != has_experts(architecture)) {
    refuse(file, "is of the architecture " + architecture + " and has " + std::to_string(sizes.experts) +
                     " experts in each layer");
  }
  json config;
  if (sizes.experts > 0) {
    config = experts_config(file, keys, sizes, architecture);
  } else {
    keys.ignore({"expert_used_count", "expert_feed_forward_length"});
    config = architecture == "llada" ? llada_config(file, keys, sizes) : transformers_config(file, keys, sizes);
  }
  add_common(file, keys, family, config);
  if (architecture == "llama" || architecture == "qwen3") {
    config["attention_bias"] = find_tensor(file, "blk.0.attn_q.bias") != nullptr;
  }
  if (architecture == "llama") {
    config["mlp_bias"] = find_tensor(file, "blk.0.ffn_up.bias") != nullptr;
  }
  for (const std::string& key : keys.unknown()) {
    config[key] = "a key of the GGUF file";
  }
  return config;
}

}  // namespace diffulex_edge
