// What lies beside a vocabulary: tokenizer_config.json, special_tokens_map.json, added_tokens.json, config.json.
#pragma once

#include <array>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizer/tokenizer_source.h"

namespace diffulex_edge {

struct TokenizerConfig {
  std::string where;                     // tokenizer_config.json, or the folder where there is none: for messages
  std::string class_name;                // the "tokenizer_class" without "Fast"; empty: none is said
  std::string model_type;                // config.json's, where no class is said; empty: nor is this
  std::vector<AddedToken> added_tokens;  // with their ids, which rise
  // By name, "eos_token"; their ids are not known. No value: the files say that there is none.
  std::map<std::string, std::optional<AddedToken>, std::less<>> special_tokens;
  std::vector<AddedToken> extra_special_tokens;
  std::map<std::string, bool, std::less<>> flags;  // "add_bos_token", "legacy" and their kin

  bool flag(std::string_view key, bool fallback) const;
};

inline constexpr std::array<std::string_view, 4> kTokenizerConfigFiles = {
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json"};

// Where a folder needs what is not known here.
inline constexpr const char* kTokenizerAdvice =
    "write a tokenizer.json with transformers: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)";

// Each file may be missing. Throws Error{kBadFile} naming file and key.
TokenizerConfig read_tokenizer_config(const std::filesystem::path& folder);

// What a class takes where the files name no token: name and text.
using DefaultTokens = std::span<const std::pair<std::string_view, std::string_view>>;

// The text of a special token, the files' or the class's.
std::optional<std::string> special_token(const TokenizerConfig& config, DefaultTokens defaults, std::string_view name);

// All added tokens in the order in which transformers adds them: those that have ids, then special tokens that are not
// among them, which get the vocabulary's ids or the next free ones.
std::vector<AddedToken> all_added_tokens(const TokenizerConfig& config, DefaultTokens defaults,
                                         const Vocabulary& vocabulary);

// The id of the token that `config` puts before each text, if it does. `added` are all added tokens.
std::vector<std::int64_t> begin_ids(const TokenizerConfig& config, DefaultTokens defaults,
                                    const std::vector<AddedToken>& added);

}  // namespace diffulex_edge
