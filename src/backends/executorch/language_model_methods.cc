#include "backends/executorch/language_model_methods.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "bundle/bundle.h"
#include "diffulex_edge/error.h"
#include "models/logit_positions.h"
#include "models/special_tokens.h"

namespace diffulex_edge::executorch {
namespace {

class Methods {
 public:
  Methods(const Model& model, const ProgramInputs& inputs) : model_(model) {
    const ModelConfig& config = model.config;
    add("get_max_seq_len", inputs.step_tokens);
    add("get_max_context_len", inputs.context_tokens);
    add("get_vocab_size", config.vocab_size);
    add("enable_dynamic_shape", inputs.takes_fewer_tokens);
    add("use_kv_cache", inputs.cache != "none");
    add("use_sdpa_with_kv_cache", false);
    add("get_cache_kind", inputs.cache);
    add("get_logits_kind", inputs.logits);
    add("get_model_family", config.family);
    add("get_block_length", config.block_length);
    add("use_shifted_logits", has_shifted_logits(config));
    add_if_known("get_bos_id", [&] { return find_bos_id(model); });
    if (!is_autoregressive(config)) {
      add_if_known("get_mask_id", [&] { return find_mask_token(model); });
    }
    guarded("get_eos_ids", [&] { add_eos_ids(); });
    guarded("get_tokenizer_hash", [&] { add_tokenizer_hash(); });
  }

  LanguageModelMethods take() { return std::move(found_); }

 private:
  void add(std::string name, ConstantValue value) {
    found_.methods.push_back({.name = std::move(name), .values = {std::move(value)}});
  }

  // A folder's other files may be of a kind that this library does not read, and the model is none the worse for it.
  template <typename Work>
  void guarded(const std::string& name, const Work& work) {
    try {
      work();
    } catch (const Error& error) {
      found_.warnings.push_back("the artefact has no " + name + ": " + error.what());
    }
  }

  bool is_token(std::int64_t id) const { return id >= 0 && id < model_.config.vocab_size; }

  template <typename Find>
  void add_if_known(const std::string& name, const Find& find) {
    guarded(name, [&] {
      const std::optional<std::int64_t> id = find();
      if (id && is_token(*id)) {
        add(name, *id);
      }
    });
  }

  void add_eos_ids() {
    ConstantMethod method{.name = "get_eos_ids", .is_list = true};
    for (const std::int64_t id : find_eos_ids(model_)) {
      if (is_token(id)) {
        method.values.emplace_back(id);
      }
    }
    if (!method.values.empty()) {
      found_.methods.push_back(std::move(method));
    }
  }

  void add_tokenizer_hash() {
    if (std::optional<std::string> digest = tokenizer_digest(model_.path)) {
      add("get_tokenizer_hash", *std::move(digest));
    }
  }

  const Model& model_;
  LanguageModelMethods found_;
};

}  // namespace

ProgramInputs program_inputs(const Model& model, const std::optional<CachePlan>& cache, bool takes_fewer_tokens) {
  ProgramInputs inputs{
      .step_tokens = model.seq_len, .context_tokens = model.seq_len, .takes_fewer_tokens = takes_fewer_tokens};
  if (cache) {
    inputs.step_tokens = cache->block_tokens;
    inputs.context_tokens = cache->tokens;
    inputs.cache = cache_kind(*cache);
    inputs.logits = logits_name(*cache);
  }
  return inputs;
}

LanguageModelMethods language_model_methods(const Model& model, const ProgramInputs& inputs) {
  return model.path.empty() ? LanguageModelMethods() : Methods(model, inputs).take();
}

std::string methods_as_json(const std::vector<ConstantMethod>& methods) {
  nlohmann::ordered_json all = nlohmann::ordered_json::object();
  for (const ConstantMethod& method : methods) {
    nlohmann::ordered_json values = nlohmann::ordered_json::array();
    for (const ConstantValue& value : method.values) {
      std::visit([&](const auto& held) { values.push_back(held); }, value);
    }
    all[method.name] = method.is_list ? values : values.front();
  }
  return all.dump();
}

}  // namespace diffulex_edge::executorch
