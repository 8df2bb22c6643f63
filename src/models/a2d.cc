// A2D models of the dLLM library (A2DLlamaLMHeadModel and its kin, dllm-hub/*-diffusion-*): transformers' Llama, Qwen2
// and Qwen3 with a full mask. Logits are not shifted. Those trained with blocks (bd3lm) have the same class: their
// sampler makes the mask, --block-length here.

#include "models/architecture.h"

namespace diffulex_edge {
namespace {

ModelConfig read_with_full_mask(const Architecture& causal, ConfigReader& reader) {
  ModelConfig config = causal.read_config(reader);
  config.block_length = 0;
  return config;
}

}  // namespace

Architecture a2d_llama() {
  return {.family = "a2d",
          .model_type = "a2d-llama",
          .architecture = "A2DLlamaLMHeadModel",
          .read_config = [](ConfigReader& reader) { return read_with_full_mask(llama(), reader); },
          .build = build_transformers_decoder};
}

Architecture a2d_qwen2() {
  return {.family = "a2d",
          .model_type = "a2d-qwen2",
          .architecture = "A2DQwen2LMHeadModel",
          .read_config = [](ConfigReader& reader) { return read_with_full_mask(qwen2(), reader); },
          .build = build_transformers_decoder};
}

Architecture a2d_qwen3() {
  return {.family = "a2d",
          .model_type = "a2d-qwen3",
          .architecture = "A2DQwen3LMHeadModel",
          .read_config = [](ConfigReader& reader) { return read_with_full_mask(qwen3(), reader); },
          .build = build_transformers_decoder};
}

}  // namespace diffulex_edge
