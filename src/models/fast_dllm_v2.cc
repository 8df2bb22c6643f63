// Fast-dLLM v2 (Fast_dLLM_QwenForCausalLM, Efficient-Large-Model/Fast_dLLM_v2_*): Qwen2.5's arithmetic with a
// block-causal mask of "bd_size" tokens. The shift of its logits is the sampler's.

#include "models/architecture.h"

namespace diffulex_edge {
namespace {

ModelConfig read_fast_dllm_v2(ConfigReader& reader) {
  ModelConfig config = read_transformers_config(reader, 32);
  config.head_dim = reader.size("head_dim").value_or(config.head_dim);
  config.qkv_bias = true;  // fixed in the model's code
  config.block_length = reader.size("bd_size").value_or(32);
  reader.ignore({"attention_bias", "conplemenrary_mask"});  // of training, as the authors spell it
  return config;
}

}  // namespace

Architecture fast_dllm_v2() {
  return {.family = "fast_dllm_v2",
          .model_type = "Fast_dLLM_Qwen",
          .architecture = "Fast_dLLM_QwenForCausalLM",
          .read_config = read_fast_dllm_v2,
          .build = build_transformers_decoder};
}

}  // namespace diffulex_edge
