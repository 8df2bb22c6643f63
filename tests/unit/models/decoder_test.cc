// The graph that each family's configuration and tensors give, evaluated, against the same decoder written down
// directly (support/reference_decoder.cc).

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "diffulex_edge/model.h"
#include "support/expect_error.h"
#include "support/reference_decoder.h"
#include "support/tiny_model.h"

namespace diffulex_edge {
namespace {

using testing::reference_decoder;
using testing::ReferenceDecoder;

const std::vector<std::int64_t> kIds = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 36};

class Decoder : public ::testing::Test {
 protected:
  Model load(const ReferenceDecoder& reference, const ModelOptions& options = {}) {
    testing::write_model(folder_.path(), reference.config, reference.tensors());
    return load_model(folder_.path(), options);
  }
  void expect_same_logits(const ReferenceDecoder& reference, const ModelOptions& options = {}) {
    SCOPED_TRACE(reference.config.dump());
    const Model model = load(reference, options);
    const auto weights = testing::arrays_of(reference.tensors());
    const auto expected = reference.logits(kIds, weights);
    const auto actual = testing::interpret(decompose(model.graph, [](Op) { return false; }), kIds, weights).values;
    ASSERT_EQ(actual.size(), expected.size());
    double worst = 0.0;
    double largest = 0.0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      worst = std::max(worst, std::fabs(actual[i] - expected[i]));
      largest = std::max(largest, std::fabs(expected[i]));
    }
    EXPECT_GT(largest, 1.0);
    EXPECT_LT(worst, 2e-5);  // the graph's constants are float32
  }
  testing::TemporaryFolder folder_;
};

TEST_F(Decoder, ComputesEveryFamily) {
  for (const char* family : {"llada", "dream", "sdar", "fast_dllm_v2", "llama", "qwen2", "qwen3"}) {
    for (const bool tied : {false, true}) {
      expect_same_logits(reference_decoder(family, tied));
    }
  }
}

TEST_F(Decoder, AddsTheBiasesThatLladaAsksFor) {
  ReferenceDecoder model = reference_decoder("llada");
  model.config["include_qkv_bias"] = true;
  model.qkv_bias = true;
  expect_same_logits(model);
  model.config["include_bias"] = true;
  model.config["bias_for_layer_norm"] = false;
  model.output_bias = model.mlp_bias = model.head_bias = true;
  expect_same_logits(model);
  model.config["include_qkv_bias"] = false;  // include_bias covers q, k and v too
  expect_same_logits(model);
}

TEST_F(Decoder, AddsTheBiasesThatLlamaAsksFor) {
  ReferenceDecoder model = reference_decoder("llama");
  model.config["attention_bias"] = true;
  model.qkv_bias = model.output_bias = true;
  expect_same_logits(model);
  model.config["mlp_bias"] = true;
  model.mlp_bias = true;
  expect_same_logits(model);
}

TEST_F(Decoder, AddsAttentionBiasesToTheQwen3Families) {
  for (const char* family : {"sdar", "qwen3"}) {
    ReferenceDecoder model = reference_decoder(family);
    model.config["attention_bias"] = true;
    model.qkv_bias = model.output_bias = true;
    expect_same_logits(model);
  }
}

TEST_F(Decoder, TakesAnyNumberOfKeyHeads) {
  for (const std::int64_t kv_heads : {1, 2, 3, 6}) {
    ReferenceDecoder model = reference_decoder("qwen3");
    model.heads = 6;
    model.kv_heads = kv_heads;
    model.config["num_attention_heads"] = 6;
    model.config["num_key_value_heads"] = kv_heads;
    expect_same_logits(model);
  }
}

TEST_F(Decoder, MasksByTheCallersBlockLength) {
  for (const std::int64_t block : {0, 1, 2, 3, 11, 32}) {
    for (const char* family : {"llada", "sdar", "qwen2"}) {
      ReferenceDecoder model = reference_decoder(family);
      model.block = block;
      expect_same_logits(model, {.seq_len = {}, .block_length = block, .mask_token_id = {}, .ignored_config_keys = {}});
    }
  }
}

TEST_F(Decoder, ScalesRotationsLinearly) {
  ReferenceDecoder model = reference_decoder("qwen2");
  model.config["rope_scaling"] = {{"type", "linear"}, {"factor", 3.0}};
  for (double& frequency : model.inverse_frequencies) {
    frequency /= 3.0;
  }
  expect_same_logits(model);
}

TEST_F(Decoder, MultipliesRotationsByYarnsAttentionFactor) {
  ReferenceDecoder model = reference_decoder("qwen3");
  // With factor 1 no frequency changes: what is left is the factor of cos and sin.
  model.config["rope_scaling"] = {
      {"rope_type", "yarn"}, {"factor", 1.0}, {"original_max_position_embeddings", 64}, {"attention_factor", 1.3}};
  model.attention_factor = 1.3;
  expect_same_logits(model);
}

TEST_F(Decoder, ReadsTheNewerSpellingOfTheRotationBase) {
  ReferenceDecoder model = reference_decoder("llama");
  model.config.erase("rope_theta");
  model.config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 100.0}};
  expect_same_logits(model);
}

TEST_F(Decoder, NamesItsLayersCanonicallyInEveryFamily) {
  for (const char* family : {"llada", "dream", "sdar", "fast_dllm_v2", "llama", "qwen2", "qwen3"}) {
    const ReferenceDecoder reference = reference_decoder(family);
    const Model model = load(reference);
    std::vector<std::string> names;
    for (const Node& node : model.graph.nodes()) {
      if (!node.name.empty() && node.op != Op::kInput) {
        names.push_back(node.name);
      }
    }
    std::vector<std::string> expected = {"embedding"};
    for (const std::string layer : {"layers.0.", "layers.1."}) {
      for (const std::string name : {"input_norm", "q_proj", "k_proj", "v_proj"}) {
        expected.push_back(layer + name);
      }
      if (reference.qk_norm) {
        expected.push_back(layer + "q_norm");
        expected.push_back(layer + "k_norm");
      }
      for (const std::string name : {"o_proj", "post_attention_norm", "gate_proj", "up_proj", "down_proj"}) {
        expected.push_back(layer + name);
      }
    }
    expected.insert(expected.end(), {"norm", "lm_head"});
    EXPECT_EQ(names, expected) << family;
  }
}

// --- What load_model refuses, in every family.

TEST_F(Decoder, NeedsEveryTensorOfEveryFamily) {
  for (const char* family : {"llada", "qwen3", "dream"}) {
    const ReferenceDecoder reference = reference_decoder(family);
    const auto whole = reference.tensors();
    for (std::size_t i = 0; i < whole.size(); ++i) {
      auto tensors = whole;
      tensors.erase(tensors.begin() + static_cast<std::ptrdiff_t>(i));
      testing::write_model(folder_.path(), reference.config, tensors);
      testing::expect_error(ErrorCode::kBadFile, {"'" + whole[i].name + "'"}, [&] { load_model(folder_.path()); });
    }
  }
}

TEST_F(Decoder, RefusesEveryTensorOfAnotherShape) {
  for (const char* family : {"llada", "qwen3", "dream"}) {
    const ReferenceDecoder reference = reference_decoder(family);
    const auto whole = reference.tensors();
    for (std::size_t i = 0; i < whole.size(); ++i) {
      auto tensors = whole;
      std::vector<std::int64_t>& shape = tensors[i].shape;
      std::ranges::reverse(shape);
      if (shape == whole[i].shape) {  // vectors and square matrices
        shape.insert(shape.begin(), 1);
      }
      testing::write_model(folder_.path(), reference.config, tensors);
      testing::expect_error(ErrorCode::kBadFile, {"'" + whole[i].name + "'"}, [&] { load_model(folder_.path()); });
    }
  }
}

TEST_F(Decoder, RefusesTensorsOfALayerTooMany) {
  ReferenceDecoder reference = reference_decoder("dream");
  reference.config["num_hidden_layers"] = 1;
  testing::write_model(folder_.path(), reference.config, reference.tensors());
  testing::expect_error(ErrorCode::kUnsupported, {"model.layers.1.", "no place"}, [&] { load_model(folder_.path()); });
}

TEST_F(Decoder, RefusesBiasesThatTheConfigurationDenies) {
  ReferenceDecoder reference = reference_decoder("llada");
  reference.output_bias = true;
  testing::write_model(folder_.path(), reference.config, reference.tensors());
  testing::expect_error(ErrorCode::kUnsupported, {"attn_out.bias", "no place"}, [&] { load_model(folder_.path()); });
}

TEST_F(Decoder, IgnoresTheRotaryBuffersOfOldFiles) {
  const ReferenceDecoder reference = reference_decoder("llama");
  auto tensors = reference.tensors();
  tensors.push_back(testing::random_tensor("model.layers.0.self_attn.rotary_emb.inv_freq", {32}, 1));
  testing::write_model(folder_.path(), reference.config, tensors);
  EXPECT_NO_THROW(load_model(folder_.path()));
}

TEST_F(Decoder, RefusesATiedHeadOfAnotherType) {
  const ReferenceDecoder reference = reference_decoder("qwen3", true);
  auto tensors = reference.tensors();
  tensors.push_back(
      {.name = "lm_head.weight", .dtype = DType::kI32, .shape = tensors.front().shape, .bytes = tensors.front().bytes});
  testing::write_model(folder_.path(), reference.config, tensors);
  testing::expect_error(ErrorCode::kBadFile, {"lm_head.weight", "differs from the embedding"},
                        [&] { load_model(folder_.path()); });
}

TEST_F(Decoder, RefusesAHeadDimThatTheTensorsContradict) {
  ReferenceDecoder reference = reference_decoder("qwen3");
  testing::write_model(folder_.path(), reference.config, reference.tensors());
  for (const std::int64_t lie : {2, 32, 66, 1 << 30}) {
    reference.config["head_dim"] = lie;
    testing::write_file(folder_ / "config.json", reference.config.dump());
    testing::expect_error(ErrorCode::kBadFile, {"q_proj.weight", std::to_string(lie)},
                          [&] { load_model(folder_.path()); });
  }
}

TEST_F(Decoder, ChoosesItsSequenceLength) {
  ReferenceDecoder reference = reference_decoder("qwen3");
  EXPECT_EQ(load(reference).seq_len, 1024);  // at most, where the configuration allows more
  reference.config["max_position_embeddings"] = 40;
  EXPECT_EQ(load(reference).seq_len, 40);
  EXPECT_TRUE(load(reference, {.seq_len = 40, .block_length = {}, .mask_token_id = {}, .ignored_config_keys = {}})
                  .warnings.empty());
  const Model longer =
      load(reference, {.seq_len = 41, .block_length = {}, .mask_token_id = {}, .ignored_config_keys = {}});
  ASSERT_EQ(longer.warnings.size(), 1U);
  EXPECT_NE(longer.warnings[0].find("41"), std::string::npos);
}

}  // namespace
}  // namespace diffulex_edge
