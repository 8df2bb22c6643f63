#include "support/reference_decoder.h"

#include <cmath>
#include <cstring>
#include <random>
#include <stdexcept>

namespace diffulex_edge::testing {
namespace {

using Vector = std::vector<double>;

struct Names {
  std::string embedding, norm, head;
  std::string layer, input_norm, q, k, v, o, q_norm, k_norm, post_norm, gate, up, down;
};

Names names_of(const std::string& family) {
  if (family == "llada") {
    return {.embedding = "model.transformer.wte",
            .norm = "model.transformer.ln_f",
            .head = "model.transformer.ff_out",
            .layer = "model.transformer.blocks.",
            .input_norm = "attn_norm",
            .q = "q_proj",
            .k = "k_proj",
            .v = "v_proj",
            .o = "attn_out",
            .q_norm = "",
            .k_norm = "",
            .post_norm = "ff_norm",
            .gate = "ff_proj",
            .up = "up_proj",
            .down = "ff_out"};
  }
  return {.embedding = "model.embed_tokens",
          .norm = "model.norm",
          .head = "lm_head",
          .layer = "model.layers.",
          .input_norm = "input_layernorm",
          .q = "self_attn.q_proj",
          .k = "self_attn.k_proj",
          .v = "self_attn.v_proj",
          .o = "self_attn.o_proj",
          .q_norm = "self_attn.q_norm",
          .k_norm = "self_attn.k_norm",
          .post_norm = "post_attention_layernorm",
          .gate = "mlp.gate_proj",
          .up = "mlp.up_proj",
          .down = "mlp.down_proj"};
}

nlohmann::json config_of(const ReferenceDecoder& model, const std::string& type, const std::string& architecture) {
  if (model.family == "llada") {
    return {{"model_type", type},
            {"architectures", {architecture}},
            {"d_model", model.hidden},
            {"n_layers", model.layers},
            {"n_heads", model.heads},
            {"n_kv_heads", model.kv_heads},
            {"mlp_hidden_size", model.inner},
            {"vocab_size", model.vocab - 2},
            {"embedding_size", model.vocab},
            {"rms_norm_eps", model.eps},
            {"weight_tying", model.tied},
            {"rope", true},
            {"rope_theta", 100.0},
            {"block_type", "llama"},
            {"activation_type", "silu"},
            {"layer_norm_type", "rms"}};
  }
  nlohmann::json config = {{"model_type", type},
                           {"architectures", {architecture}},
                           {"hidden_size", model.hidden},
                           {"num_hidden_layers", model.layers},
                           {"num_attention_heads", model.heads},
                           {"num_key_value_heads", model.kv_heads},
                           {"intermediate_size", model.inner},
                           {"vocab_size", model.vocab},
                           {"rms_norm_eps", model.eps},
                           {"rope_theta", 100},
                           {"tie_word_embeddings", model.tied}};
  if (model.family != "dream") {
    config["head_dim"] = model.head_dim;
  }
  return config;
}

Vector row(const Array& table, std::int64_t index) {
  const auto width = static_cast<std::size_t>(table.shape.back());
  const double* begin = table.values.data() + static_cast<std::size_t>(index) * width;
  return {begin, begin + width};
}

Vector rms_norm(const Vector& x, const Array& weight, double eps) {
  double squares = 0.0;
  for (const double value : x) {
    squares += value * value;
  }
  Vector result(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    result[i] = weight.values[i] * x[i] / std::sqrt(squares / static_cast<double>(x.size()) + eps);
  }
  return result;
}

}  // namespace

ReferenceDecoder reference_decoder(const std::string& family, bool tied) {
  const std::map<std::string, std::pair<std::string, std::string>> kTypes = {
      {"llada", {"llada", "LLaDAModelLM"}},     {"dream", {"Dream", "DreamModel"}},
      {"sdar", {"sdar", "SDARForCausalLM"}},    {"fast_dllm_v2", {"Fast_dLLM_Qwen", "Fast_dLLM_QwenForCausalLM"}},
      {"llama", {"llama", "LlamaForCausalLM"}}, {"qwen2", {"qwen2", "Qwen2ForCausalLM"}},
      {"qwen3", {"qwen3", "Qwen3ForCausalLM"}}};
  ReferenceDecoder model{.family = family, .tied = tied, .inverse_frequencies = {}, .config = {}};
  const bool own_head_dim = family != "llada" && family != "dream";
  model.head_dim = own_head_dim ? 64 : 32;
  model.qkv_bias = family == "dream" || family == "fast_dllm_v2" || family == "qwen2";
  model.qk_norm = family == "sdar" || family == "qwen3";
  model.eps = 1e-3;  // large enough to be seen
  if (family == "llama" || family == "qwen2" || family == "qwen3") {
    model.block = 1;
  } else if (family == "sdar" || family == "fast_dllm_v2") {
    model.block = 5;
  }
  for (std::int64_t i = 0; i < model.head_dim / 2; ++i) {
    model.inverse_frequencies.push_back(
        std::pow(100.0, -2.0 * static_cast<double>(i) / static_cast<double>(model.head_dim)));
  }
  const auto& [type, architecture] = kTypes.at(family);
  model.config = config_of(model, type, architecture);
  if (family == "sdar") {
    model.config["block_size"] = model.block;
  } else if (family == "fast_dllm_v2") {
    model.config["bd_size"] = model.block;
  }
  return model;
}

std::vector<TestTensor> ReferenceDecoder::tensors() const {
  const Names names = names_of(family);
  std::vector<TestTensor> result;
  std::mt19937 generator(7);
  const auto add = [&](const std::string& name, std::vector<std::int64_t> shape, float mean, float spread) {
    std::normal_distribution<float> normal(mean, spread);
    std::int64_t count = 1;
    for (const std::int64_t size : shape) {
      count *= size;
    }
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& value : values) {
      value = normal(generator);
    }
    result.push_back({.name = name, .dtype = DType::kF32, .shape = std::move(shape), .bytes = bytes_of(values)});
  };
  const auto linear = [&](const std::string& name, std::int64_t out, std::int64_t in, bool bias) {
    add(name + ".weight", {out, in}, 0.0F, 1.5F / std::sqrt(static_cast<float>(in)));
    if (bias) {
      add(name + ".bias", {out}, 0.0F, 0.3F);
    }
  };
  const auto norm = [&](const std::string& name, std::int64_t size) { add(name + ".weight", {size}, 1.0F, 0.3F); };
  add(names.embedding + ".weight", {vocab, hidden}, 0.0F, 1.0F);
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    const std::string prefix = names.layer + std::to_string(layer) + ".";
    norm(prefix + names.input_norm, hidden);
    linear(prefix + names.q, heads * head_dim, hidden, qkv_bias);
    linear(prefix + names.k, kv_heads * head_dim, hidden, qkv_bias);
    linear(prefix + names.v, kv_heads * head_dim, hidden, qkv_bias);
    linear(prefix + names.o, hidden, heads * head_dim, output_bias);
    if (qk_norm) {
      norm(prefix + names.q_norm, head_dim);
      norm(prefix + names.k_norm, head_dim);
    }
    norm(prefix + names.post_norm, hidden);
    linear(prefix + names.gate, inner, hidden, mlp_bias);
    linear(prefix + names.up, inner, hidden, mlp_bias);
    linear(prefix + names.down, hidden, inner, mlp_bias);
  }
  norm(names.norm, hidden);
  if (!tied) {
    linear(names.head, vocab, hidden, head_bias);
  }
  return result;
}

std::vector<double> ReferenceDecoder::logits(const std::vector<std::int64_t>& ids,
                                             const std::map<std::string, Array>& weights) const {
  const Names names = names_of(family);
  const std::size_t tokens = ids.size();
  const auto dim = static_cast<std::size_t>(head_dim);
  const auto linear = [&](const std::string& name, const Vector& x, bool bias) {
    const Array& weight = weights.at(name + ".weight");
    Vector result(static_cast<std::size_t>(weight.shape[0]));
    for (std::size_t out = 0; out < result.size(); ++out) {
      result[out] = bias ? weights.at(name + ".bias").values[out] : 0.0;
      for (std::size_t i = 0; i < x.size(); ++i) {
        result[out] += weight.values[out * x.size() + i] * x[i];
      }
    }
    return result;
  };
  // One head's slice of a projection: normalized if the family does so, turned to its position.
  const auto head_of = [&](const Vector& projected, std::size_t head, std::size_t position, const std::string& norm,
                           bool turned) {
    Vector x(projected.begin() + static_cast<std::ptrdiff_t>(head * dim),
             projected.begin() + static_cast<std::ptrdiff_t>((head + 1) * dim));
    if (!turned) {
      return x;
    }
    if (qk_norm) {
      x = rms_norm(x, weights.at(norm + ".weight"), eps);
    }
    Vector result(dim);
    for (std::size_t i = 0; i < dim / 2; ++i) {
      const double angle = static_cast<double>(position) * inverse_frequencies[i];
      const double cos = std::cos(angle) * attention_factor;
      const double sin = std::sin(angle) * attention_factor;
      result[i] = x[i] * cos - x[i + dim / 2] * sin;
      result[i + dim / 2] = x[i + dim / 2] * cos + x[i] * sin;
    }
    return result;
  };

  std::vector<Vector> x;
  for (const std::int64_t id : ids) {
    x.push_back(row(weights.at(names.embedding + ".weight"), id));
  }
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    const std::string prefix = names.layer + std::to_string(layer) + ".";
    std::vector<Vector> q;
    std::vector<Vector> k;
    std::vector<Vector> v;
    for (const Vector& token : x) {
      const Vector normed = rms_norm(token, weights.at(prefix + names.input_norm + ".weight"), eps);
      q.push_back(linear(prefix + names.q, normed, qkv_bias));
      k.push_back(linear(prefix + names.k, normed, qkv_bias));
      v.push_back(linear(prefix + names.v, normed, qkv_bias));
    }
    for (std::size_t t = 0; t < tokens; ++t) {
      Vector mixed;
      for (std::size_t head = 0; head < static_cast<std::size_t>(heads); ++head) {
        const std::size_t kv = head / static_cast<std::size_t>(heads / kv_heads);
        const Vector query = head_of(q[t], head, t, prefix + names.q_norm, true);
        Vector sum(dim, 0.0);
        double total = 0.0;
        for (std::size_t s = 0; s < tokens; ++s) {
          const auto length = static_cast<std::size_t>(block);
          if (length != 0 && s / length > t / length) {
            continue;
          }
          const Vector key = head_of(k[s], kv, s, prefix + names.k_norm, true);
          double score = 0.0;
          for (std::size_t i = 0; i < dim; ++i) {
            score += query[i] * key[i];
          }
          const double weight = std::exp(score / std::sqrt(static_cast<double>(head_dim)));
          const Vector value = head_of(v[s], kv, s, "", false);
          total += weight;
          for (std::size_t i = 0; i < dim; ++i) {
            sum[i] += weight * value[i];
          }
        }
        for (const double value : sum) {
          mixed.push_back(value / total);
        }
      }
      const Vector attended = linear(prefix + names.o, mixed, output_bias);
      for (std::size_t i = 0; i < attended.size(); ++i) {
        x[t][i] += attended[i];
      }
    }
    for (Vector& token : x) {
      const Vector normed = rms_norm(token, weights.at(prefix + names.post_norm + ".weight"), eps);
      Vector gate = linear(prefix + names.gate, normed, mlp_bias);
      const Vector up = linear(prefix + names.up, normed, mlp_bias);
      for (std::size_t i = 0; i < gate.size(); ++i) {
        gate[i] = gate[i] / (1.0 + std::exp(-gate[i])) * up[i];
      }
      const Vector down = linear(prefix + names.down, gate, mlp_bias);
      for (std::size_t i = 0; i < down.size(); ++i) {
        token[i] += down[i];
      }
    }
  }
  std::vector<double> result;
  for (const Vector& token : x) {
    const Vector normed = rms_norm(token, weights.at(names.norm + ".weight"), eps);
    const Vector scores = linear(tied ? names.embedding : names.head, normed, head_bias && !tied);
    result.insert(result.end(), scores.begin(), scores.end());
  }
  return result;
}

std::map<std::string, Array> arrays_of(const std::vector<TestTensor>& tensors) {
  std::map<std::string, Array> arrays;
  for (const TestTensor& tensor : tensors) {
    if (tensor.dtype != DType::kF32) {
      throw std::invalid_argument(tensor.name);
    }
    std::vector<float> values(tensor.bytes.size() / sizeof(float));
    std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
    arrays[tensor.name] = {.shape = tensor.shape, .values = {values.begin(), values.end()}};
  }
  return arrays;
}

}  // namespace diffulex_edge::testing
