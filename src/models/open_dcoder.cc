// Open-dCoder (fredzzp/open-dcoder-0.5B): Qwen2's arithmetic and class name with a full mask, which its own code takes
// (is_causal=False); config.json tells it from Qwen2 only by naming that code. The shift of its logits by one position
// is the sampler's, as Dream's.

#include "models/architecture.h"

namespace diffulex_edge {
namespace {

ModelConfig read_open_dcoder(ConfigReader& reader) {
  ModelConfig config = qwen2().read_config(reader);
  config.block_length = 0;
  reader.ignore({"trust_remote_code"});
  return config;
}

// As the authors' upload script writes it.
bool is_open_dcoder(ConfigReader& reader) {
  const nlohmann::json* code = reader.value("auto_map");
  const bool has_code = code != nullptr && code->is_object() &&
                        code->value("AutoModelForCausalLM", nlohmann::json()) == "modeling_qwen2.Qwen2ForCausalLM";
  return has_code && reader.has("trust_remote_code");
}

}  // namespace

Architecture open_dcoder() {
  return {.family = "open_dcoder",
          .model_type = "qwen2",
          .architecture = "Qwen2ForCausalLM",
          .is_own = is_open_dcoder,
          .read_config = read_open_dcoder,
          .build = build_transformers_decoder};
}

}  // namespace diffulex_edge
