// A decoder written down directly from the families' published definitions, in double precision and without the graph:
// what the graph must compute. Sizes are awkward on purpose.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/interpreter.h"
#include "support/safetensors_text.h"

namespace diffulex_edge::testing {

struct ReferenceDecoder {
  std::string family;
  std::int64_t hidden = 96;
  std::int64_t layers = 2;
  std::int64_t heads = 3;
  std::int64_t kv_heads = 1;
  std::int64_t head_dim = 32;
  std::int64_t inner = 160;
  std::int64_t vocab = 37;
  double eps = 1e-6;
  bool qkv_bias = false;
  bool output_bias = false;
  bool mlp_bias = false;
  bool head_bias = false;
  bool qk_norm = false;
  bool tied = false;
  std::int64_t block = 0;  // 0: every token sees every other
  std::vector<double> inverse_frequencies;
  double attention_factor = 1.0;
  nlohmann::json config;  // as the family spells all this

  // Random weights under the family's own names; different for each tensor.
  std::vector<TestTensor> tensors() const;
  // [tokens, vocab], row-major.
  std::vector<double> logits(const std::vector<std::int64_t>& ids, const std::map<std::string, Array>& weights) const;
};

// "llada", "dream", "sdar", "fast_dllm_v2", "llama", "qwen2" or "qwen3", with their published peculiarities.
ReferenceDecoder reference_decoder(const std::string& family, bool tied = false);

// F32 tensors as the interpreter and the reference take them.
std::map<std::string, Array> arrays_of(const std::vector<TestTensor>& tensors);

}  // namespace diffulex_edge::testing
