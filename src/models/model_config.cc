// config.json to ModelConfig: finds the architecture, reads its keys, checks that they fit together.

#include <algorithm>
#include <array>
#include <cfloat>
#include <cmath>
#include <set>
#include <utility>

#include "checkpoint/model_folder.h"
#include "core/join.h"
#include "core/json.h"
#include "diffulex_edge/error.h"
#include "model_files/gguf_file.h"
#include "model_files/model_files.h"
#include "models/architecture.h"
#include "models/parsed_config.h"
#include "models/prequantized_config.h"

namespace diffulex_edge {
namespace {

constexpr std::size_t kMaxConfigBytes = 16U << 20U;

bool contains(const nlohmann::json& list, std::string_view text) {
  // NOLINTNEXTLINE(modernize-use-ranges): nlohmann-json's iterators are no ranges for every compiler
  return std::any_of(list.begin(), list.end(), [&](const nlohmann::json& entry) { return entry == text; });
}

const Architecture& find_architecture(ConfigReader& reader) {
  const std::string model_type = reader.text("model_type").value_or("");
  if (model_type.empty()) {
    reader.fail("model_type", "is missing");
  }
  const nlohmann::json* listed = reader.value("architectures");
  if (listed != nullptr && (!listed->is_array() || listed->empty())) {
    reader.fail("architectures", "is " + listed->dump() + ", not a list of names");
  }
  std::set<std::string_view> types;
  std::set<std::string_view> classes;  // of this type
  for (const Architecture& candidate : architectures()) {
    types.insert(candidate.model_type);
    if (candidate.model_type == model_type) {
      classes.insert(candidate.architecture);
      const bool is_named = listed == nullptr || contains(*listed, candidate.architecture);
      if (is_named && (candidate.is_own == nullptr || candidate.is_own(reader))) {
        return candidate;
      }
    }
  }
  if (listed != nullptr && !classes.empty()) {
    reader.fail_unsupported("architectures", "is " + listed->dump() + "; of model_type \"" + model_type + "\" only " +
                                                 join(classes, ", ", " and ") + (classes.size() == 1 ? " is" : " are") +
                                                 " supported");
  }
  reader.fail_unsupported("model_type", "is \"" + model_type + "\"; supported are " + join(types, ", ", " and "));
}

// Keys of transformers' PretrainedConfig and of generation that have no part in the forward pass.
void ignore_bookkeeping(ConfigReader& reader) {
  reader.ignore({"architectures", "model_type", "auto_map", "torch_dtype", "dtype", "transformers_version",
                 "initializer_range", "use_cache", "bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id",
                 "bos_token", "eos_token", "name_or_path", "return_dict", "output_hidden_states", "output_attentions",
                 "torchscript", "use_bfloat16", "is_encoder_decoder", "is_decoder", "tokenizer_class",
                 "task_specific_params", "finetuning_task", "id2label", "label2id", "problem_type",
                 "chunk_size_feed_forward", "pruned_heads", "cross_attention_hidden_size", "add_cross_attention",
                 "tie_encoder_decoder", "attn_implementation", "max_length", "min_length", "do_sample", "temperature",
                 "top_k", "top_p", "repetition_penalty", "num_beams", "num_return_sequences", "use_flash_attention_2",
                 // What transformers 4 writes of every configuration.
                 "tf_legacy_loss", "early_stopping", "num_beam_groups", "diversity_penalty", "typical_p",
                 "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids",
                 "output_scores", "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id",
                 "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens",
                 "begin_suppress_tokens", "prefix", "sep_token_id", "decoder_start_token_id",
                 // Of other programs that read or wrote the folder.
                 "transformers.js_config", "is_llama_config", "unsloth_fixed", "unsloth_version"});
}

[[noreturn]] void fail_activations(const ConfigReader& quantization, const std::string& layer,
                                   const std::string& what) {
  quantization.fail("activations", "of layer '" + layer + "' " + what,
                    "write the checkpoint again with `diffulex-edge quantize`");
}

ActivationRange read_range(const ConfigReader& quantization, const std::string& layer, const nlohmann::json& range) {
  const auto is_float32 = [](const nlohmann::json& bound) {
    return bound.is_number() && std::fabs(bound.get<double>()) <= static_cast<double>(FLT_MAX);
  };
  if (!range.is_array() || range.size() != 2 || !is_float32(range[0]) || !is_float32(range[1]) ||
      range[0].get<float>() > range[1].get<float>()) {
    fail_activations(quantization, layer,
                     "has the range " + range.dump() + ", not [min, max] of two ordered numbers in float32");
  }
  return {.min = range[0].get<float>(), .max = range[1].get<float>()};
}

std::map<std::string, LayerActivations, std::less<>> read_activations(ConfigReader& quantization) {
  std::map<std::string, LayerActivations, std::less<>> result;
  const nlohmann::json* layers = quantization.value("activations");
  if (layers == nullptr) {
    return result;
  }
  if (!layers->is_object()) {
    quantization.fail("activations", "is not an object with one entry for each layer");
  }
  for (const auto& [layer, ranges] : layers->items()) {
    if (!ranges.is_object() || ranges.size() != 2 || !ranges.contains("input") || !ranges.contains("output")) {
      fail_activations(quantization, layer, "are not an object with \"input\" and \"output\"");
    }
    result[layer] = {.input = read_range(quantization, layer, ranges["input"]),
                     .output = read_range(quantization, layer, ranges["output"])};
  }
  return result;
}

std::map<std::string, std::string, std::less<>> read_layer_formats(ConfigReader& quantization) {
  std::map<std::string, std::string, std::less<>> formats;
  const nlohmann::json* layers = quantization.value("layer_formats");
  if (layers == nullptr) {
    return formats;
  }
  if (!layers->is_object()) {
    quantization.fail("layer_formats", "is not an object with one entry for each layer");
  }
  for (const auto& [layer, format] : layers->items()) {
    if (!format.is_string()) {
      quantization.fail("layer_formats", "has " + format.dump() + " for '" + layer + "', not a format's name");
    }
    formats[layer] = format.get<std::string>();
  }
  return formats;
}

StoredQuantization read_own_quantization(ConfigReader& quantization) {
  StoredQuantization stored;
  stored.dtype = quantization.text("dtype").value_or("");
  stored.mode = quantization.text("mode").value_or("");
  static_cast<void>(quantization.text("method"));  // how the integers were found: they are final
  stored.group_size = quantization.integer("group_size").value_or(0);
  stored.embedding_dtype = quantization.text("embedding_dtype");
  stored.head_dtype = quantization.text("head_dtype");
  stored.layer_formats = read_layer_formats(quantization);
  stored.activations = read_activations(quantization);
  if (const nlohmann::json* patterns = quantization.value("exclude_layers")) {
    if (!patterns->is_array()) {
      quantization.fail("exclude_layers", "is " + patterns->dump() + ", not a list of strings");
    }
    for (const nlohmann::json& pattern : *patterns) {
      if (!pattern.is_string()) {
        quantization.fail("exclude_layers", "is " + patterns->dump() + ", not a list of strings");
      }
      stored.exclude_layers.push_back(pattern.get<std::string>());
    }
  }
  return stored;
}

// AutoGPTQ wrote its settings beside config.json at first.
std::optional<ConfigReader> read_quantize_config(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "quantize_config.json";
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    return std::nullopt;
  }
  return ConfigReader(read_json_file(path, kMaxConfigBytes), path.string());
}

void read_quantization(ConfigReader& reader, const std::filesystem::path& folder, ParsedConfig& parsed) {
  std::optional<ConfigReader> quantization = reader.object("quantization_config");
  std::string method = "gptq";
  if (quantization) {
    method = quantization->text("quant_method").value_or("");
  } else {
    quantization = read_quantize_config(folder);
  }
  if (quantization && method == "diffulex_edge") {
    parsed.quantization = read_own_quantization(*quantization);
  } else if (quantization) {
    parsed.prequantized = read_prequantized_scheme(*quantization, method);
  }
}

void check_consistency(const ConfigReader& reader, const ModelConfig& config) {
  if (config.num_heads % config.num_kv_heads != 0) {
    throw Error(ErrorCode::kBadFile, reader.where(),
                std::to_string(config.num_heads) + " attention heads are not a multiple of " +
                    std::to_string(config.num_kv_heads) + " key/value heads");
  }
  if (config.head_dim == 0) {
    throw Error(ErrorCode::kBadFile, reader.where(),
                "a hidden size of " + std::to_string(config.hidden_size) + " is not a multiple of " +
                    std::to_string(config.num_heads) + " attention heads");
  }
  if (config.head_dim < 2 || config.head_dim % 2 != 0) {
    throw Error(ErrorCode::kBadFile, reader.where(),
                "the head dimension " + std::to_string(config.head_dim) + " is not even, as rotary embedding needs it");
  }
}

}  // namespace

std::span<const Architecture> architectures() {
  static const std::array kAll = {llada(),
                                  llada_moe(),
                                  llada2_moe(),
                                  dream(),
                                  sdar(),
                                  sdar_moe(),
                                  rnd1(),
                                  fast_dllm_v2(),
                                  llama(),
                                  open_dcoder(),
                                  qwen2(),
                                  qwen3(),
                                  qwen3_moe(),
                                  a2d_llama(),
                                  a2d_qwen2(),
                                  a2d_qwen3(),
                                  wedlm(),
                                  stable_diffcoder(),
                                  nemotron_diffusion()};
  return kAll;
}

ParsedConfig parse_config(const std::filesystem::path& folder, const ModelOptions& options) {
  std::error_code error;
  if (!std::filesystem::is_directory(folder, error) && !is_gguf(folder)) {
    throw Error(ErrorCode::kBadFile, folder.string(), "is neither a folder nor a GGUF file",
                "name a model folder with config.json and safetensors files");
  }
  const std::filesystem::path path = folder / "config.json";
  if (!has_document(path)) {
    fail_without_config(folder);
  }
  ConfigReader reader(read_document(path, kMaxConfigBytes), path.string());
  reader.set_harmless({options.ignored_config_keys.begin(), options.ignored_config_keys.end()});
  const Architecture& architecture = find_architecture(reader);
  ParsedConfig parsed{.architecture = &architecture, .config = architecture.read_config(reader)};
  parsed.config.family = architecture.family;
  parsed.config.architecture = architecture.architecture;
  read_quantization(reader, folder, parsed);
  ignore_bookkeeping(reader);
  reader.finish();
  check_consistency(reader, parsed.config);
  if (options.block_length) {
    if (*options.block_length < 0) {
      throw Error(ErrorCode::kInvalidArgument, "block length", std::to_string(*options.block_length) + " is negative",
                  "0 makes the model bidirectional");
    }
    parsed.config.block_length = *options.block_length;
  }
  return parsed;
}

ModelConfig read_model_config(const std::filesystem::path& folder, const ModelOptions& options) {
  return parse_config(find_model_folder(folder), options).config;
}

}  // namespace diffulex_edge
