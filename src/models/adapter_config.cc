#include "models/adapter_config.h"

#include <algorithm>
#include <cctype>
#include <string_view>

#include "core/json.h"
#include "core/links.h"
#include "diffulex_edge/error.h"
#include "models/config_reader.h"

namespace diffulex_edge {
namespace {

constexpr std::size_t kMaxAdapterConfigBytes = 16U << 20U;

[[noreturn]] void refuse(const ConfigReader& config, const std::string& key, const std::string& what) {
  throw Error(ErrorCode::kUnsupported, config.where() + ": '" + key + "'", what, kMergeFirst);
}

// peft matches these keys as patterns; nearly all are plain names.
bool is_plain_name(std::string_view name) {
  return !name.empty() && std::ranges::all_of(name, [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '.';
  });
}

void read_alpha_pattern(ConfigReader& config, LoraScheme& scheme) {
  const nlohmann::json* pattern = config.value("alpha_pattern");
  if (pattern == nullptr) {
    return;
  }
  if (!pattern->is_object()) {
    config.fail("alpha_pattern", "is no object");
  }
  for (const auto& [name, alpha] : pattern->items()) {
    if (!is_plain_name(name)) {
      refuse(config, "alpha_pattern", "has the pattern " + json_text(name) + "; names of modules are read");
    }
    if (!alpha.is_number()) {
      config.fail("alpha_pattern", "has no number for '" + name + "'");
    }
    scheme.alpha_of_modules[name] = alpha.get<double>();
  }
}

// These initializations also change the base's weights, which the adapter counts on and does not hold.
void refuse_changed_base(ConfigReader& config) {
  const nlohmann::json* how = config.value("init_lora_weights");
  if (how == nullptr || !how->is_string()) {
    return;
  }
  const auto name = how->get<std::string>();
  for (const std::string_view changing : {"pissa", "olora", "loftq", "corda", "lora_ga"}) {
    if (name.starts_with(changing)) {
      refuse(config, "init_lora_weights", "is \"" + name + "\", which changed the weights of the model itself");
    }
  }
}

}  // namespace

LoraScheme read_adapter_config(const std::filesystem::path& folder, const std::vector<std::string>& ignored_keys) {
  const std::filesystem::path path = folder / "adapter_config.json";
  if (!is_present(path)) {
    throw Error(ErrorCode::kBadFile, folder.string(), "has no adapter_config.json", "name the folder of an adapter");
  }
  nlohmann::json document = read_json_file(path, kMaxAdapterConfigBytes, JsonNumbers::kPython);
  // Every version of peft adds keys for its newer methods; what is off or empty changes nothing.
  if (document.is_object()) {
    for (auto entry = document.begin(); entry != document.end();) {
      const bool is_off = *entry == false || ((entry->is_object() || entry->is_array()) && entry->empty());
      entry = is_off ? document.erase(entry) : std::next(entry);
    }
  }
  ConfigReader config(std::move(document), path.string());
  config.set_harmless({ignored_keys.begin(), ignored_keys.end()});
  if (const std::string type = config.text("peft_type").value_or("LORA"); type != "LORA") {
    refuse(config, "peft_type", "is " + type + "; LORA is read");
  }
  LoraScheme scheme;
  scheme.alpha = config.number("lora_alpha").value_or(scheme.alpha);
  read_alpha_pattern(config, scheme);
  scheme.is_rank_stabilized = config.boolean("use_rslora").value_or(false);
  refuse_changed_base(config);
  for (const char* key :
       {"fan_in_fan_out", "lora_bias", "layer_replication", "alora_invocation_tokens", "use_qalora"}) {
    if (config.has(key)) {
      refuse(config, key, "is set, which changes the mathematics");
    }
  }
  // Of training, or told by the tensors: ranks, DoRA's magnitudes, biases and whole modules.
  config.ignore({"r",
                 "rank_pattern",
                 "use_dora",
                 "bias",
                 "modules_to_save",
                 "base_model_name_or_path",
                 "revision",
                 "task_type",
                 "inference_mode",
                 "target_modules",
                 "exclude_modules",
                 "target_parameters",
                 "layers_to_transform",
                 "layers_pattern",
                 "lora_dropout",
                 "auto_mapping",
                 "megatron_config",
                 "megatron_core",
                 "loftq_config",
                 "eva_config",
                 "corda_config",
                 "lora_ga_config",
                 "runtime_config",
                 "peft_version",
                 "qalora_group_size",
                 "trainable_token_indices",
                 "ensure_weight_tying"});
  config.finish();
  return scheme;
}

MergedLora merge_adapter(Checkpoint& checkpoint, const std::filesystem::path& folder, const ModelConfig& config,
                         const std::vector<std::string>& ignored_keys) {
  const LoraScheme scheme = read_adapter_config(folder, ignored_keys);
  return merge_lora(checkpoint, Checkpoint(find_adapter_weights(folder)), scheme, config.tie_word_embeddings);
}

}  // namespace diffulex_edge
