#include "runtime/mask_token.h"

#include <filesystem>
#include <string>

#include "core/json.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/tokenizer.h"

namespace diffulex_edge {
namespace {

constexpr std::size_t kMaxBytes = std::size_t{32} << 20U;

// A token is given as text, or as an object with its text as "content".
std::optional<std::string> mask_token_text(const std::filesystem::path& file) {
  if (!std::filesystem::exists(file)) {
    return std::nullopt;
  }
  const nlohmann::json json = read_json_file(file, kMaxBytes);
  if (!json.is_object() || !json.contains("mask_token")) {
    return std::nullopt;
  }
  const nlohmann::json& token = json["mask_token"];
  if (token.is_string()) {
    return token.get<std::string>();
  }
  if (token.is_object() && token.contains("content") && token["content"].is_string()) {
    return token["content"].get<std::string>();
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::int64_t> find_mask_token(const Model& model) {
  if (model.config.mask_token_id) {
    return model.config.mask_token_id;
  }
  std::optional<std::string> text = mask_token_text(model.path / "special_tokens_map.json");
  if (!text) {
    text = mask_token_text(model.path / "tokenizer_config.json");
  }
  if (!text && model.config.family == "fast_dllm_v2") {
    text = "|<MASK>|";
  }
  if (!text || !std::filesystem::exists(model.path / "tokenizer.json")) {
    return std::nullopt;
  }
  const std::optional<std::int64_t> id = Tokenizer(model.path).id_of(*text);
  if (id && *id >= model.config.vocab_size) {
    throw Error(ErrorCode::kBadFile, (model.path / "tokenizer.json").string(),
                "its mask token is number " + std::to_string(*id) + ", the model has " +
                    std::to_string(model.config.vocab_size) + " tokens",
                "give --mask-token-id");
  }
  return id;
}

}  // namespace diffulex_edge
