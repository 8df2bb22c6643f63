#include "tokenizer/tokenizer_config.h"

#include <algorithm>
#include <charconv>
#include <system_error>

#include "core/json.h"
#include "tokenizer/tokenizer_json.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;

constexpr std::array<std::string_view, 7> kSpecialNames = {"bos_token", "eos_token", "unk_token", "sep_token",
                                                           "pad_token", "cls_token", "mask_token"};

// An empty object where there is no such file.
nlohmann::json read_object(const fs::path& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) {
    return nlohmann::json::object();
  }
  nlohmann::json document = read_json_file(path, kMaxTokenizerBytes);
  static_cast<void>(Fields(document, path.string()));
  return document;
}

// A token as text, or as an object with its text as "content".
std::optional<AddedToken> read_token(const nlohmann::json& value, const std::string& where) {
  if (value.is_string()) {
    return AddedToken{.content = value.get<std::string>(), .special = true};
  }
  if (!value.is_object()) {
    return std::nullopt;
  }
  AddedToken token = read_added_token(Fields(value, where), 0);
  token.special = true;
  token.normalized = value.value("normalized", true);  // as the constructor that takes these keys has it
  return token;
}

void read_special_tokens(const nlohmann::json& document, const std::string& where, TokenizerConfig& config) {
  for (const auto& [key, value] : document.items()) {
    std::string place = where;
    place.append(": '").append(key).append("'");
    const bool is_list = key == "additional_special_tokens" || key == "extra_special_tokens";
    if (is_list && (value.is_array() || value.is_object())) {
      for (const nlohmann::json& entry : value) {
        if (std::optional<AddedToken> token = read_token(entry, place)) {
          config.extra_special_tokens.push_back(*std::move(token));
        }
      }
    } else if (key.ends_with("_token") && (value.is_string() || value.is_object())) {
      config.special_tokens[key] = read_token(value, place);
    } else if (value.is_null() && std::ranges::find(kSpecialNames, key) != kSpecialNames.end()) {
      config.special_tokens[key] = std::nullopt;
    }
  }
}

void sort_by_id(std::vector<AddedToken>& tokens) { std::ranges::sort(tokens, {}, &AddedToken::id); }

// Objects by their ids, which are text.
void read_added_tokens_decoder(const Fields& fields, TokenizerConfig& config) {
  for (const auto& [key, value] : fields.require("added_tokens_decoder").items()) {
    const Fields token = fields.object("added_tokens_decoder").object(key);
    std::int64_t id = -1;
    const char* end = key.data() + key.size();
    const auto [stopped, error] = std::from_chars(key.data(), end, id);
    if (error != std::errc() || stopped != end || id < 0 || id > Vocabulary::kMaxId) {
      token.fail("is no id of a token");
    }
    config.added_tokens.push_back(read_added_token(token, id));
    config.added_tokens.back().normalized = value.value("normalized", true);
  }
  sort_by_id(config.added_tokens);
}

// Older folders: ids by text, in a file of their own.
void read_added_tokens_file(const fs::path& path, TokenizerConfig& config) {
  const nlohmann::json document = read_object(path);
  const auto is_special = [&](const std::string& text) {
    const auto is_text = [&](const AddedToken& token) { return token.content == text; };
    return std::ranges::any_of(config.extra_special_tokens, is_text) ||
           std::ranges::any_of(config.special_tokens,
                               [&](const auto& named) { return named.second && is_text(*named.second); });
  };
  for (const auto& [text, id] : document.items()) {
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() > Vocabulary::kMaxId) {
      Fields(document, path.string()).fail("the token '" + text + "' has the id " + id.dump());
    }
    const bool special = is_special(text);
    config.added_tokens.push_back(
        {.id = id.get<std::int64_t>(), .content = text, .normalized = !special, .special = special});
  }
  sort_by_id(config.added_tokens);
}

void read_flags(const nlohmann::json& document, TokenizerConfig& config) {
  for (const auto& [key, value] : document.items()) {
    if (value.is_boolean()) {
      config.flags.emplace(key, value.get<bool>());
    }
  }
}

// The files' token of a name, or the class's.
std::optional<AddedToken> find_special(const TokenizerConfig& config, DefaultTokens defaults, std::string_view name) {
  if (const auto named = config.special_tokens.find(name); named != config.special_tokens.end()) {
    return named->second;
  }
  for (const auto& [default_name, text] : defaults) {
    if (default_name == name) {
      return AddedToken{.content = std::string(text), .special = true};
    }
  }
  return std::nullopt;
}

// Named tokens in their order: the usual ones, then those of one model.
std::vector<AddedToken> named_tokens(const TokenizerConfig& config, DefaultTokens defaults) {
  std::vector<AddedToken> tokens;
  for (const std::string_view name : kSpecialNames) {
    if (std::optional<AddedToken> token = find_special(config, defaults, name)) {
      tokens.push_back(*std::move(token));
    }
  }
  for (const auto& [name, token] : config.special_tokens) {
    if (token && std::ranges::find(kSpecialNames, name) == kSpecialNames.end()) {
      tokens.push_back(*token);
    }
  }
  return tokens;
}

class AddedTokenList {
 public:
  AddedTokenList(std::vector<AddedToken> tokens, const Vocabulary& vocabulary)
      : tokens_(std::move(tokens)), vocabulary_(vocabulary) {
    for (const AddedToken& token : tokens_) {
      last_ = std::max(last_, token.id);
    }
  }

  AddedToken* find(const std::string& content) {
    const auto found = std::ranges::find(tokens_, content, &AddedToken::content);
    return found == tokens_.end() ? nullptr : &*found;
  }

  void append(AddedToken token) {
    const std::int64_t next = std::max(last_ + 1, vocabulary_.size());
    token.id = vocabulary_.id_of(token.content).value_or(static_cast<std::uint32_t>(next));
    last_ = std::max(last_, token.id);
    tokens_.push_back(std::move(token));
  }

  std::vector<AddedToken> take() { return std::move(tokens_); }

 private:
  std::vector<AddedToken> tokens_;
  const Vocabulary& vocabulary_;
  std::int64_t last_ = -1;
};

}  // namespace

bool TokenizerConfig::flag(std::string_view key, bool fallback) const {
  const auto found = flags.find(key);
  return found == flags.end() ? fallback : found->second;
}

TokenizerConfig read_tokenizer_config(const fs::path& folder) {
  const fs::path path = folder / "tokenizer_config.json";
  std::error_code ignored;
  TokenizerConfig config{.where = fs::exists(path, ignored) ? path.string() : folder.string()};
  const nlohmann::json document = read_object(path);
  const Fields fields(document, config.where);
  config.class_name = fields.text_or("tokenizer_class", "");
  if (config.class_name.ends_with("Fast")) {
    config.class_name.resize(config.class_name.size() - 4);
  }
  if (config.class_name.empty()) {
    const fs::path model = folder / "config.json";
    const nlohmann::json values = read_object(model);
    config.model_type = Fields(values, model.string()).text_or("model_type", "");
  }
  read_flags(document, config);
  read_special_tokens(document, config.where, config);
  if (fields.has("added_tokens_decoder")) {
    read_added_tokens_decoder(fields, config);
    return config;
  }
  const fs::path map = folder / "special_tokens_map.json";
  read_special_tokens(read_object(map), map.string(), config);
  read_added_tokens_file(folder / "added_tokens.json", config);
  return config;
}

std::optional<std::string> special_token(const TokenizerConfig& config, DefaultTokens defaults, std::string_view name) {
  const std::optional<AddedToken> token = find_special(config, defaults, name);
  return token ? std::optional(token->content) : std::nullopt;
}

std::vector<AddedToken> all_added_tokens(const TokenizerConfig& config, DefaultTokens defaults,
                                         const Vocabulary& vocabulary) {
  AddedTokenList list(config.added_tokens, vocabulary);
  for (AddedToken& token : named_tokens(config, defaults)) {
    if (AddedToken* known = list.find(token.content)) {
      known->special = true;
    } else {
      list.append(std::move(token));
    }
  }
  for (const AddedToken& token : config.extra_special_tokens) {
    if (AddedToken* known = list.find(token.content)) {
      const std::int64_t id = known->id;
      *known = token;
      known->id = id;
    } else {
      list.append(token);
    }
  }
  return list.take();
}

std::vector<std::int64_t> begin_ids(const TokenizerConfig& config, DefaultTokens defaults,
                                    const std::vector<AddedToken>& added) {
  const std::optional<std::string> text = special_token(config, defaults, "bos_token");
  if (!text || !config.flag("add_bos_token", false)) {
    return {};
  }
  const auto token = std::ranges::find(added, *text, &AddedToken::content);
  return token == added.end() ? std::vector<std::int64_t>() : std::vector{token->id};
}

}  // namespace diffulex_edge
