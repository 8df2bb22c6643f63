// Nemotron-Labs-Diffusion (nvidia/Nemotron-Labs-Diffusion-3B, -8B, -14B): transformers' Ministral3 under other names,
// with a full mask and a head of its own. Its generate computes what is written with a causal mask: DecoderKind's
// kCausalContext.

#include <algorithm>

#include "models/architecture.h"

namespace diffulex_edge {
namespace {

DecoderNames names() {
  DecoderNames names = transformers_names("encoder.");
  names.head = "diffusion_head";
  return names;
}

ModelConfig read_nemotron(ConfigReader& reader) {
  ModelConfig config = read_transformers_config(reader, 8);
  config.head_dim = reader.size("head_dim").value_or(128);
  reader.expect("attention_bias", false);
  reader.expect("mlp_bias", false);
  reader.expect("dlm_paradigm", "bidirectional");
  if (config.rope.unscaled_positions > 0) {
    config.max_positions = std::min(config.max_positions, config.rope.unscaled_positions);
  }
  // Of training; generate is told its block.
  reader.ignore({"block_size", "ar_loss_weight", "dlm_loss_weight", "dp_varying_mask_ratio", "dlm_type",
                 "attn_implementation", "diffusion_lm", "causal_context"});
  return config;
}

}  // namespace

Architecture nemotron_diffusion() {
  return {.family = "nemotron_diffusion",
          .model_type = "nemotron_labs_diffusion",
          .architecture = "NemotronLabsDiffusionModel",
          .read_config = read_nemotron,
          .build = [](const ModelConfig& config, const Checkpoint& checkpoint, std::int64_t seq_len) {
            return build_decoder(config, names(), checkpoint, seq_len);
          }};
}

}  // namespace diffulex_edge
