#include "models/special_tokens.h"

#include <charconv>
#include <filesystem>
#include <string>
#include <vector>

#include "diffulex_edge/error.h"
#include "diffulex_edge/tokenizer.h"
#include "model_files/model_files.h"

namespace diffulex_edge {
namespace {

constexpr std::size_t kMaxBytes = std::size_t{32} << 20U;

// The value of `key`, where the file and the key are there.
std::optional<nlohmann::json> value_in(const std::filesystem::path& file, const char* key) {
  if (!has_document(file)) {
    return std::nullopt;
  }
  const nlohmann::json document = read_document(file, kMaxBytes);
  return document.is_object() && document.contains(key) ? std::optional(document[key]) : std::nullopt;
}

// A token is given as text, or as an object with its text as "content".
std::optional<std::string> token_text(const std::filesystem::path& file, const char* key) {
  const std::optional<nlohmann::json> token = value_in(file, key);
  if (!token) {
    return std::nullopt;
  }
  const nlohmann::json& text = token->is_object() && token->contains("content") ? (*token)["content"] : *token;
  return text.is_string() ? std::optional(text.get<std::string>()) : std::nullopt;
}

// tokenizer_config.json lists added tokens by their ids, as text.
std::optional<std::int64_t> id_of_added(const Model& model, const std::string& text) {
  const std::optional<nlohmann::json> tokens = value_in(model.path / "tokenizer_config.json", "added_tokens_decoder");
  if (!tokens || !tokens->is_object()) {
    return std::nullopt;
  }
  for (const auto& [key, token] : tokens->items()) {
    std::int64_t id = 0;
    const char* end = key.data() + key.size();
    const auto [stopped, error] = std::from_chars(key.data(), end, id);
    const bool is_id = error == std::errc() && stopped == end;
    if (is_id && token.is_object() && token.contains("content") && token["content"] == text) {
      return id;
    }
  }
  return std::nullopt;
}

// A tokenizer takes a second and a hundred megabytes to read where the vocabulary is large: it is asked last.
std::optional<std::int64_t> id_of(const Model& model, const std::optional<std::string>& text) {
  if (!text) {
    return std::nullopt;
  }
  if (const std::optional<std::int64_t> id = id_of_added(model, *text)) {
    return id;
  }
  return tokenizer_files(model.path).empty() ? std::nullopt : Tokenizer(model.path).id_of(*text);
}

// The mask token that a family's code has where no file names it.
std::optional<std::string> usual_mask(std::string_view family) {
  if (family == "fast_dllm_v2") {
    return "|<MASK>|";
  }
  return family == "llada_moe" || family == "llada2_moe" ? std::optional<std::string>("<|mask|>") : std::nullopt;
}

// A number or a list of them.
std::vector<std::int64_t> ids_in(const std::optional<nlohmann::json>& value) {
  std::vector<std::int64_t> ids;
  if (value) {
    for (const nlohmann::json& id : value->is_array() ? *value : nlohmann::json::array({*value})) {
      if (id.is_number_integer()) {
        ids.push_back(id.get<std::int64_t>());
      }
    }
  }
  return ids;
}

// The ids of `name`, "eos_token" or "bos_token": as numbers in the configurations, or as text in the tokenizer's.
std::vector<std::int64_t> find_ids(const Model& model, const std::string& name) {
  for (const char* file : {"generation_config.json", "config.json"}) {
    std::vector<std::int64_t> ids = ids_in(value_in(model.path / file, (name + "_id").c_str()));
    if (!ids.empty()) {
      return ids;
    }
  }
  const std::optional<std::int64_t> id = id_of(model, token_text(model.path / "tokenizer_config.json", name.c_str()));
  return id ? std::vector{*id} : std::vector<std::int64_t>();
}

}  // namespace

std::optional<std::int64_t> find_mask_token(const Model& model) {
  if (model.config.mask_token_id) {
    return model.config.mask_token_id;
  }
  std::optional<std::string> text;
  std::string where;  // the file and the key that name it
  for (const char* file : {"special_tokens_map.json", "tokenizer_config.json"}) {
    text = token_text(model.path / file, "mask_token");
    if (text) {
      where = (model.path / file).string() + ": 'mask_token'";
      break;
    }
  }
  if (!text) {
    text = usual_mask(model.config.family);
    where = model.path.string();
  }
  const std::optional<std::int64_t> id = id_of(model, text);
  if (id && *id >= model.config.vocab_size) {
    throw Error(ErrorCode::kBadFile, where,
                "'" + text.value_or("") + "' is token " + std::to_string(*id) +
                    " of the tokenizer, and the model has " + std::to_string(model.config.vocab_size) + " tokens",
                "give --mask-token-id");
  }
  return id;
}

std::vector<std::int64_t> find_eos_ids(const Model& model) { return find_ids(model, "eos_token"); }

std::optional<std::int64_t> find_bos_id(const Model& model) {
  const std::vector<std::int64_t> ids = find_ids(model, "bos_token");
  return ids.empty() ? std::nullopt : std::optional(ids.front());
}

std::optional<std::int64_t> find_expand_id(const Model& model) {
  if (model.config.family != "dream") {
    return std::nullopt;
  }
  for (const char* name : {"generation_config.json", "config.json"}) {
    const std::filesystem::path file = model.path / name;
    const std::vector<std::int64_t> ids = ids_in(value_in(file, "expand_token_id"));
    if (ids.empty()) {
      continue;
    }
    if (ids.front() < 0 || ids.front() >= model.config.vocab_size) {
      throw Error(
          ErrorCode::kBadFile, file.string() + ": 'expand_token_id'",
          std::to_string(ids.front()) + " is not in the vocabulary of " + std::to_string(model.config.vocab_size),
          "give --fixed-length");
    }
    return ids.front();
  }
  return std::nullopt;
}

}  // namespace diffulex_edge
