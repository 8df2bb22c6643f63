#include "models/logit_positions.h"

namespace diffulex_edge {

bool predicts_next_position(const ModelConfig& config) {
  return config.family == "dream" || config.family == "rnd1" || config.family == "fast_dllm_v2" ||
         config.family == "open_dcoder";
}

bool is_autoregressive(const ModelConfig& config) { return config.block_length == 1; }

bool has_shifted_logits(const ModelConfig& config) {
  return is_autoregressive(config) || predicts_next_position(config);
}

}  // namespace diffulex_edge
