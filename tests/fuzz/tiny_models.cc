#include "tiny_models.h"

#include <string>
#include <vector>

#include "input_folder.h"
#include "support/safetensors_text.h"
#include "support/temporary_folder.h"

namespace diffulex_edge::fuzz {
namespace {

testing::TestTensor tensor(const std::string& name, std::vector<std::int64_t> shape) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) {
    count *= size;
  }
  std::vector<float> values;
  for (std::int64_t i = 0; i < count; ++i) {
    values.push_back(static_cast<float>((i * 37 + std::ssize(name)) % 101 - 50) / 64.0F);
  }
  return {.name = name, .dtype = DType::kF32, .shape = std::move(shape), .bytes = testing::bytes_of(values)};
}

}  // namespace

bool write_tiny_weights(const std::filesystem::path& file) {
  const std::string layer = "model.layers.0.";
  const std::vector<testing::TestTensor> tensors = {tensor("model.embed_tokens.weight", {12, 8}),
                                                    tensor(layer + "input_layernorm.weight", {8}),
                                                    tensor(layer + "self_attn.q_proj.weight", {8, 8}),
                                                    tensor(layer + "self_attn.k_proj.weight", {4, 8}),
                                                    tensor(layer + "self_attn.v_proj.weight", {4, 8}),
                                                    tensor(layer + "self_attn.o_proj.weight", {8, 8}),
                                                    tensor(layer + "self_attn.q_norm.weight", {4}),
                                                    tensor(layer + "self_attn.k_norm.weight", {4}),
                                                    tensor(layer + "post_attention_layernorm.weight", {8}),
                                                    tensor(layer + "mlp.gate_proj.weight", {8, 8}),
                                                    tensor(layer + "mlp.up_proj.weight", {8, 8}),
                                                    tensor(layer + "mlp.down_proj.weight", {8, 8}),
                                                    tensor("model.norm.weight", {8}),
                                                    tensor("lm_head.weight", {12, 8})};
  testing::write_file(file, testing::safetensors_file(tensors));
  return true;
}

const Model& tiny_model() {
  static InputFolder folder({"config.json"});
  static const bool has_weights = write_tiny_weights(folder / "model.safetensors");
  static const Model model = [] {
    static_cast<void>(has_weights);
    folder.fill(R"({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 8,)"
                R"( "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4,)"
                R"( "intermediate_size": 8, "vocab_size": 12, "max_position_embeddings": 64,)"
                R"( "tie_word_embeddings": false})");
    return load_model(folder.path());
  }();
  return model;
}

}  // namespace diffulex_edge::fuzz
