// A tokenizer.json, or a part of one.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tokenizer/fields.h"
#include "tokenizer/tokenizer_source.h"

namespace diffulex_edge {

inline constexpr std::size_t kMaxTokenizerBytes = std::size_t{64} << 20U;  // those of known models are under 40 MiB

// Throws Error{kBadFile} and Error{kUnsupported}, as Tokenizer does.
TokenizerSource read_tokenizer_json(const std::filesystem::path& path);

// An object of tokens with their ids, which `fields` has under `key`. Throws Error{kBadFile}.
Vocabulary read_vocabulary(const Fields& fields, const char* key);

// "a b", or a list of two. `number` is the merge's place, for the message. Throws Error{kBadFile}.
std::pair<std::string, std::string> read_merge(const Fields& fields, const nlohmann::json& merge, std::size_t number);

// An added token's object; its id is given where the object has none. Throws Error{kBadFile}.
AddedToken read_added_token(const Fields& fields, std::int64_t id);

}  // namespace diffulex_edge
