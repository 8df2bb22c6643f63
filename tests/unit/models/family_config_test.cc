// Each family's config.json: what is required, what absence means, and that every key that changes the mathematics is
// refused by name.

#include <gtest/gtest.h>

#include "diffulex_edge/model.h"
#include "support/expect_error.h"
#include "support/reference_decoder.h"
#include "support/tiny_model.h"

namespace diffulex_edge {
namespace {

using Json = nlohmann::json;

constexpr const char* kFamilies[] = {"llada", "dream", "sdar", "fast_dllm_v2", "llama", "qwen2", "qwen3"};
constexpr const char* kTransformersFamilies[] = {"dream", "sdar", "fast_dllm_v2", "llama", "qwen2", "qwen3"};

class FamilyConfig : public ::testing::Test {
 protected:
  static Json config_of(const std::string& family) { return testing::reference_decoder(family).config; }
  ModelConfig read(const Json& config, const ModelOptions& options = {}) {
    testing::write_file(folder_ / "config.json", config.dump());
    return read_model_config(folder_.path(), options);
  }
  ModelConfig without(const std::string& family, std::initializer_list<const char*> keys) {
    Json config = config_of(family);
    for (const char* key : keys) {
      config.erase(key);
    }
    return read(config);
  }
  ModelConfig with(const std::string& family, const std::string& key, const Json& value) {
    Json config = config_of(family);
    config[key] = value;
    return read(config);
  }
  void expect_refused(ErrorCode code, const std::string& family, const std::string& key, const Json& value) {
    SCOPED_TRACE(family + ": " + key + " = " + value.dump());
    testing::expect_error(code, {"config.json", "'" + key + "'"}, [&] { with(family, key, value); });
  }
  testing::TemporaryFolder folder_;
};

TEST_F(FamilyConfig, IsReadWhole) {
  for (const char* family : kFamilies) {
    SCOPED_TRACE(family);
    const testing::ReferenceDecoder wanted = testing::reference_decoder(family);
    const ModelConfig config = read(wanted.config);
    EXPECT_EQ(config.family, family);
    EXPECT_EQ(config.architecture, wanted.config["architectures"][0].get<std::string>());
    EXPECT_EQ(config.hidden_size, wanted.hidden);
    EXPECT_EQ(config.num_layers, wanted.layers);
    EXPECT_EQ(config.num_heads, wanted.heads);
    EXPECT_EQ(config.num_kv_heads, wanted.kv_heads);
    EXPECT_EQ(config.head_dim, wanted.head_dim);
    EXPECT_EQ(config.intermediate_size, wanted.inner);
    EXPECT_EQ(config.vocab_size, wanted.vocab);
    EXPECT_EQ(config.rms_norm_eps, wanted.eps);
    EXPECT_EQ(config.qkv_bias, wanted.qkv_bias);
    EXPECT_EQ(config.qk_norm, wanted.qk_norm);
    EXPECT_EQ(config.block_length, wanted.block);
    EXPECT_EQ(config.rope.theta, 100.0);
    EXPECT_FALSE(config.mask_token_id.has_value());
    EXPECT_EQ(with(family, "mask_token_id", 151'666).mask_token_id, 151'666);
  }
}

TEST_F(FamilyConfig, NeedsItsSizes) {
  const auto expect_required = [&](const std::string& family, const char* key) {
    testing::expect_error(ErrorCode::kBadFile, {"'" + std::string(key) + "'", "is missing"},
                          [&] { without(family, {key}); });
    for (const Json& bad :
         {Json(0), Json(-1), Json(1.5), Json("96"), Json(true), Json::array({96}), Json(1LL << 40U)}) {
      expect_refused(ErrorCode::kBadFile, family, key, bad);
    }
  };
  for (const char* key : {"d_model", "n_layers", "n_heads", "vocab_size"}) {
    expect_required("llada", key);
  }
  for (const char* family : kTransformersFamilies) {
    for (const char* key :
         {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"}) {
      expect_required(family, key);
    }
  }
}

TEST_F(FamilyConfig, RefusesByNameWhatChangesTheMathematics) {
  const std::pair<const char*, Json> kLlada[] = {
      {"rope", false},
      {"alibi", true},
      {"block_type", "sequential"},
      {"block_type", "llama2"},
      {"activation_type", "gelu"},
      {"activation_type", "relu"},
      {"activation_type", "swiglu"},
      {"layer_norm_type", "default"},
      {"layer_norm_type", "gemma_rms"},
      {"layer_norm_type", "low_precision"},
      {"layer_norm_with_affine", false},
      {"bias_for_layer_norm", true},
      {"attention_layer_norm", true},
      {"scale_logits", true},
      {"input_emb_norm", true},
      {"block_group_size", 2},
      {"quantization_config", {{"quant_method", "quip"}}},
  };
  for (const auto& [key, value] : kLlada) {
    expect_refused(ErrorCode::kUnsupported, "llada", key, value);
  }
  const std::pair<const char*, Json> kTransformers[] = {
      {"hidden_act", "gelu"},
      {"hidden_act", "silu_and_mul"},
      {"use_sliding_window", true},
      {"use_mrope", true},
      {"partial_rotary_factor", 0.5},
      {"layer_types", {"full_attention", "sliding_attention"}},
      {"layer_types", {"linear_attention"}},
      {"rope_scaling", {{"rope_type", "dynamic"}, {"factor", 2.0}}},
      {"quantization_config", {{"quant_method", "awq"}, {"version", "gemv_fast"}}},
  };
  for (const char* family : kTransformersFamilies) {
    for (const auto& [key, value] : kTransformers) {
      SCOPED_TRACE(std::string(family) + ": " + key);
      testing::expect_error(ErrorCode::kUnsupported, {"'" + std::string(key) + "'"},
                            [&, k = key, v = value] { with(family, k, v); });
    }
  }
}

TEST_F(FamilyConfig, TakesTheOrdinaryValuesOfThoseKeys) {
  const std::pair<const char*, Json> kLlada[] = {
      {"alibi", false},          {"layer_norm_with_affine", true},  {"bias_for_layer_norm", false},
      {"scale_logits", false},   {"attention_layer_norm", false},   {"input_emb_norm", false},
      {"block_group_size", 1},   {"rope_full_precision", false},    {"precision", "amp_bf16"},
      {"flash_attention", true}, {"multi_query_attention", nullptr}};
  for (const auto& [key, value] : kLlada) {
    EXPECT_NO_THROW(with("llada", key, value)) << key;
  }
  const std::pair<const char*, Json> kTransformers[] = {{"hidden_act", "silu"},
                                                        {"use_sliding_window", false},
                                                        {"sliding_window", 32'768},
                                                        {"max_window_layers", 1},
                                                        {"use_mrope", false},
                                                        {"partial_rotary_factor", 1},
                                                        {"layer_types", {"full_attention"}},
                                                        {"rope_scaling", nullptr},
                                                        {"attention_dropout", 0.1},
                                                        {"quantization_config", nullptr},
                                                        {"torch_dtype", "bfloat16"},
                                                        {"dtype", "bfloat16"},
                                                        {"_attn_implementation", "sdpa"},
                                                        {"pad_token_id", nullptr},
                                                        {"eos_token_id", {1, 2}}};
  for (const char* family : kTransformersFamilies) {
    for (const auto& [key, value] : kTransformers) {
      EXPECT_NO_THROW(with(family, key, value)) << family << ": " << key;
    }
  }
}

TEST_F(FamilyConfig, RefusesUnknownKeysInEveryFamilyUnlessIgnored) {
  for (const char* family : kFamilies) {
    expect_refused(ErrorCode::kUnsupported, family, "num_experts", 8);
    Json config = config_of(family);
    config["num_experts"] = 8;
    config["logit_softcap"] = 30.0;
    EXPECT_NO_THROW(
        read(config, {.seq_len = {}, .block_length = {}, .ignored_config_keys = {"num_experts", "logit_softcap"}}));
    testing::expect_error(ErrorCode::kUnsupported, {"'logit_softcap'"}, [&] {
      read(config, {.seq_len = {}, .block_length = {}, .ignored_config_keys = {"num_experts"}});
    });
  }
}

// As published: full dumps of transformers 4, notes of other programs, training's keys.
TEST_F(FamilyConfig, TakesKeysThatChangeNothing) {
  const std::pair<const char*, Json> kAnywhere[] = {{"diversity_penalty", 0.0},
                                                    {"num_beam_groups", 1},
                                                    {"early_stopping", false},
                                                    {"length_penalty", 1.0},
                                                    {"typical_p", 1.0},
                                                    {"no_repeat_ngram_size", 0},
                                                    {"output_scores", false},
                                                    {"tf_legacy_loss", false},
                                                    {"return_dict_in_generate", false},
                                                    {"remove_invalid_values", false},
                                                    {"transformers.js_config", {{"dtype", "q4"}}},
                                                    {"is_llama_config", true},
                                                    {"encoder_no_repeat_ngram_size", 0}};
  for (const char* family : kFamilies) {
    for (const auto& [key, value] : kAnywhere) {
      EXPECT_NO_THROW(with(family, key, value)) << family << ": " << key;
    }
  }
  EXPECT_NO_THROW(with("fast_dllm_v2", "conplemenrary_mask", true));
  for (const char* family : kTransformersFamilies) {
    EXPECT_NO_THROW(with(family, "rope_interleaved", false)) << family;
    expect_refused(ErrorCode::kUnsupported, family, "rope_interleaved", true);
  }
}

// What PretrainedConfig.to_dict() of transformers 4 has of every model.
TEST_F(FamilyConfig, TakesAFullDump) {
  const Json dump = Json::parse(R"({
    "return_dict": true, "output_hidden_states": false, "output_attentions": false, "torchscript": false,
    "torch_dtype": "bfloat16", "use_bfloat16": false, "tf_legacy_loss": false, "pruned_heads": {},
    "chunk_size_feed_forward": 0, "is_encoder_decoder": false, "is_decoder": false,
    "cross_attention_hidden_size": null, "add_cross_attention": false, "tie_encoder_decoder": false, "max_length": 20,
    "min_length": 0, "do_sample": false, "early_stopping": false, "num_beams": 1, "num_beam_groups": 1,
    "diversity_penalty": 0.0, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "typical_p": 1.0,
    "repetition_penalty": 1.0, "length_penalty": 1.0, "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": null, "num_return_sequences": 1, "output_scores": false, "return_dict_in_generate": false,
    "forced_bos_token_id": null, "forced_eos_token_id": null, "remove_invalid_values": false,
    "exponential_decay_length_penalty": null, "suppress_tokens": null, "begin_suppress_tokens": null,
    "finetuning_task": null, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "tokenizer_class": null,
    "prefix": null, "bos_token_id": 1, "pad_token_id": 1, "eos_token_id": 2, "sep_token_id": 3,
    "decoder_start_token_id": 4, "task_specific_params": null, "problem_type": null, "_name_or_path": "x",
    "transformers_version": "4.46.2", "tie_word_embeddings": false})");
  for (const char* family : kFamilies) {
    Json config = config_of(family);
    config.update(dump);
    EXPECT_NO_THROW(read(config)) << family;
  }
}

TEST_F(FamilyConfig, TakesAWindowThatNoLayerHas) {
  for (const char* family : kTransformersFamilies) {
    SCOPED_TRACE(family);
    Json config = config_of(family);
    config["use_sliding_window"] = true;
    config["sliding_window"] = 4096;
    const std::int64_t layers = read(config_of(family)).num_layers;
    config["max_window_layers"] = layers;
    EXPECT_NO_THROW(read(config));
    config["max_window_layers"] = layers - 1;
    testing::expect_error(ErrorCode::kUnsupported, {"'use_sliding_window'"}, [&] { read(config); });
  }
}

TEST_F(FamilyConfig, ReadsRopeParametersByTheKindOfLayer) {
  Json config = config_of("qwen3");
  config.erase("rope_theta");
  config.erase("rope_scaling");
  const Json own = {{"rope_type", "linear"}, {"factor", 4.0}, {"rope_theta", 12345.0}};
  config["rope_parameters"] = {{"full_attention", own}, {"sliding_attention", {{"rope_theta", 7.0}}}};
  EXPECT_EQ(read(config).rope.theta, 12345.0);
  EXPECT_EQ(read(config).rope.factor, 4.0);
  config["rope_parameters"]["linear_attention"] = own;
  testing::expect_error(ErrorCode::kUnsupported, {"'linear_attention'"}, [&] { read(config); });
  config["rope_parameters"] = own;
  config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 2.0}};
  testing::expect_error(ErrorCode::kBadFile, {"'rope_parameters'", "contradicts rope_scaling"}, [&] { read(config); });
}

TEST_F(FamilyConfig, IgnoringAKeyDoesNotUnlockOneThatIsKnownToMatter) {
  Json config = config_of("llada");
  config["scale_logits"] = true;
  testing::expect_error(ErrorCode::kUnsupported, {"'scale_logits'"}, [&] {
    read(config, {.seq_len = {}, .block_length = {}, .ignored_config_keys = {"scale_logits"}});
  });
}

TEST_F(FamilyConfig, KeysOfOneFamilyAreUnknownToAnother) {
  expect_refused(ErrorCode::kUnsupported, "qwen3", "block_size", 4);
  expect_refused(ErrorCode::kUnsupported, "qwen2", "bd_size", 32);
  expect_refused(ErrorCode::kUnsupported, "dream", "mlp_bias", true);
  expect_refused(ErrorCode::kUnsupported, "llada", "rope_scaling", {{"rope_type", "linear"}, {"factor", 2}});
  expect_refused(ErrorCode::kUnsupported, "llada", "sliding_window", 128);
}

TEST_F(FamilyConfig, AbsentKeyHeadsMeanWhatTheFamilySays) {
  Json config = config_of("llada");
  config.erase("n_kv_heads");
  EXPECT_EQ(read(config).num_kv_heads, 3);
  config["multi_query_attention"] = true;
  EXPECT_EQ(read(config).num_kv_heads, 1);
  config["multi_query_attention"] = false;
  EXPECT_EQ(read(config).num_kv_heads, 3);
  config["n_kv_heads"] = 1;
  testing::expect_error(ErrorCode::kBadFile, {"'multi_query_attention'", "contradicts"}, [&] { read(config); });

  for (const char* family : {"dream", "sdar", "fast_dllm_v2", "qwen2", "qwen3"}) {
    config = config_of(family);
    config["hidden_size"] = 128;
    config["num_attention_heads"] = 64;
    config.erase("num_key_value_heads");
    config.erase("head_dim");
    EXPECT_EQ(read(config).num_kv_heads, 32) << family;
    config["num_key_value_heads"] = nullptr;
    EXPECT_EQ(read(config).num_kv_heads, 64) << family;
  }
  EXPECT_EQ(without("llama", {"num_key_value_heads"}).num_kv_heads, 3);
}

TEST_F(FamilyConfig, AbsentHeadDimMeansWhatTheFamilySays) {
  for (const char* family : {"fast_dllm_v2", "llama", "qwen2"}) {
    EXPECT_EQ(without(family, {"head_dim"}).head_dim, 32) << family;
    EXPECT_EQ(with(family, "head_dim", nullptr).head_dim, 32) << family;
  }
  for (const char* family : {"sdar", "qwen3"}) {
    EXPECT_EQ(without(family, {"head_dim"}).head_dim, 128) << family;
  }
  EXPECT_EQ(with("dream", "head_dim", 32).head_dim, 32);
  expect_refused(ErrorCode::kUnsupported, "dream", "head_dim", 64);  // the published code ignores it
}

TEST_F(FamilyConfig, AbsentSizesAndConstantsHaveTheFamilysDefaults) {
  const ModelConfig llada =
      without("llada", {"mlp_hidden_size", "embedding_size", "rms_norm_eps", "rope_theta", "weight_tying"});
  EXPECT_EQ(llada.intermediate_size, 4 * 96);
  EXPECT_EQ(llada.vocab_size, 35);
  EXPECT_EQ(llada.rms_norm_eps, 1e-5);
  EXPECT_EQ(llada.rope.theta, 10'000.0);
  EXPECT_EQ(llada.max_positions, 1024);
  EXPECT_TRUE(llada.tie_word_embeddings);
  EXPECT_EQ(with("llada", "embedding_size", nullptr).vocab_size, 35);
  for (const char* family : kTransformersFamilies) {
    const ModelConfig config = without(family, {"rms_norm_eps", "rope_theta", "tie_word_embeddings"});
    EXPECT_EQ(config.rms_norm_eps, 1e-6) << family;
    EXPECT_EQ(config.rope.theta, 10'000.0) << family;
    EXPECT_FALSE(config.tie_word_embeddings) << family;
  }
  EXPECT_EQ(without("fast_dllm_v2", {"bd_size"}).block_length, 32);
  EXPECT_EQ(without("sdar", {"block_size"}).block_length, 4);
}

TEST_F(FamilyConfig, MlpRatioGivesTheInnerSizeOfLlada) {
  Json config = config_of("llada");
  config["mlp_ratio"] = 2;
  EXPECT_EQ(read(config).intermediate_size, 160);  // mlp_hidden_size wins
  config.erase("mlp_hidden_size");
  EXPECT_EQ(read(config).intermediate_size, 192);
}

TEST_F(FamilyConfig, SdarsBlockHasTwoNames) {
  Json config = config_of("sdar");
  config["block_length"] = 5;
  EXPECT_EQ(read(config).block_length, 5);
  config["block_size"] = 8;
  testing::expect_error(ErrorCode::kBadFile, {"'block_size'", "contradict"}, [&] { read(config); });
  config.erase("block_size");
  config["block_length"] = 16;
  EXPECT_EQ(read(config).block_length, 16);
}

TEST_F(FamilyConfig, QwenBiasesAreFixedWhateverAttentionBiasSays) {
  for (const char* family : {"dream", "fast_dllm_v2", "qwen2"}) {
    const ModelConfig config = with(family, "attention_bias", false);
    EXPECT_TRUE(config.qkv_bias) << family;
    EXPECT_FALSE(config.attention_output_bias) << family;
  }
}

TEST_F(FamilyConfig, RefusesSizesThatContradictEachOther) {
  expect_refused(ErrorCode::kBadFile, "llada", "n_heads", 5);
  expect_refused(ErrorCode::kBadFile, "llada", "embedding_size", 34);
  for (const char* family : {"sdar", "fast_dllm_v2", "llama", "qwen2", "qwen3"}) {
    testing::expect_error(ErrorCode::kBadFile, {"2 key/value heads"}, [&] { with(family, "num_key_value_heads", 2); });
    for (const int odd : {1, 33}) {
      testing::expect_error(ErrorCode::kBadFile, {"head dimension", "not even"},
                            [&] { with(family, "head_dim", odd); });
    }
  }
  testing::expect_error(ErrorCode::kBadFile, {"hidden size of 2", "3 attention heads"}, [&] {
    Json config = config_of("qwen2");
    config.erase("head_dim");
    config["hidden_size"] = 2;
    read(config);
  });
}

TEST_F(FamilyConfig, ChoosesTheFamilyByTypeAndArchitecture) {
  for (const char* family : kFamilies) {
    Json config = config_of(family);
    config.erase("architectures");
    EXPECT_EQ(read(config).family, family);
    config["architectures"] = {"SomethingElse", config_of(family)["architectures"][0]};
    EXPECT_EQ(read(config).family, family);
    expect_refused(ErrorCode::kUnsupported, family, "architectures", {"SomethingElse"});
    expect_refused(ErrorCode::kBadFile, family, "architectures", Json::array());
    expect_refused(ErrorCode::kBadFile, family, "architectures", "LlamaForCausalLM");
    expect_refused(ErrorCode::kUnsupported, family, "model_type", "gpt2");
    expect_refused(ErrorCode::kBadFile, family, "model_type", nullptr);
    expect_refused(ErrorCode::kBadFile, family, "model_type", 3);
  }
  testing::expect_error(ErrorCode::kUnsupported, {"LLADA"}, [&] { with("llada", "model_type", "LLADA"); });
}

TEST_F(FamilyConfig, NamesAFolderThatIsNone) {
  testing::expect_error(ErrorCode::kBadFile, {"absent", "is neither a folder nor a GGUF file"},
                        [&] { read_model_config(folder_ / "absent"); });
  testing::expect_error(ErrorCode::kBadFile, {"config.json", "is not there"},
                        [&] { read_model_config(folder_.path()); });
}

// --- What `diffulex-edge quantize` noted.

class StoredQuantizationConfig : public FamilyConfig {
 protected:
  Model load(const Json& note) {
    const testing::ReferenceDecoder reference = testing::reference_decoder("qwen3");
    Json config = reference.config;
    config["quantization_config"] = note;
    testing::write_model(folder_.path(), config, reference.tensors());
    return load_model(folder_.path());
  }
};

TEST_F(StoredQuantizationConfig, IsReadWhole) {
  const Model model = load({{"quant_method", "diffulex_edge"},
                            {"dtype", "int4"},
                            {"mode", "dynamic"},
                            {"group_size", 64},
                            {"exclude_layers", {"a", "b"}},
                            {"embedding_dtype", "int8"},
                            {"head_dtype", "fp16"}});
  ASSERT_TRUE(model.stored_quantization.has_value());
  EXPECT_EQ(model.stored_quantization->dtype, "int4");
  EXPECT_EQ(model.stored_quantization->mode, "dynamic");
  EXPECT_EQ(model.stored_quantization->group_size, 64);
  EXPECT_EQ(model.stored_quantization->exclude_layers, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(model.stored_quantization->embedding_dtype, "int8");
  EXPECT_EQ(model.stored_quantization->head_dtype, "fp16");
}

TEST_F(StoredQuantizationConfig, IsAbsentElsewhere) { EXPECT_FALSE(load(nullptr).stored_quantization.has_value()); }

TEST_F(StoredQuantizationConfig, IsRefusedWhereItIsAnothersOrBroken) {
  testing::expect_error(ErrorCode::kUnsupported, {"'quantization_config'", "bitsandbytes"},
                        [&] { load({{"quant_method", "bitsandbytes"}}); });
  testing::expect_error(ErrorCode::kUnsupported, {"'quantization_config'"}, [&] { load(Json::object()); });
  testing::expect_error(ErrorCode::kBadFile, {"'quantization_config'"}, [&] { load("int8"); });
  for (const Json& patterns : {Json("lm_head"), Json::array({1}), Json::object()}) {
    testing::expect_error(ErrorCode::kBadFile, {"'exclude_layers'"},
                          [&] { load({{"quant_method", "diffulex_edge"}, {"exclude_layers", patterns}}); });
  }
  testing::expect_error(ErrorCode::kBadFile, {"'group_size'"},
                        [&] { load({{"quant_method", "diffulex_edge"}, {"group_size", "32"}}); });
}

}  // namespace
}  // namespace diffulex_edge
